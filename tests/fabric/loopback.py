"""A server on this machine that behaves as badly as it is told to."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """Files by path, and how the server treats them. `log` has the path and Range header of each request."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    tags: bool = True
    cut: dict[str, list[int]] = field(default_factory=dict)
    answers: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    pause_s: float = 0.0
    block: int = 1 << 16
    log: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def sums(self, path: str = "SHA256SUMS.txt") -> None:
        lines = [f"{hashlib.sha256(data).hexdigest()} {name}\n" for name, data in self.files.items()]
        self.files[path] = "".join(lines).encode()


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            asked = self.headers.get("Range")
            site.log.append((path, asked))
            if site.answers.get(path):
                code, headers = site.answers[path].pop(0)
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if path not in site.files:
                self.send_error(404)
                return
            data = site.files[path]
            tag = f'"{hashlib.sha256(data).hexdigest()[:12]}"'
            begin = 0
            unchanged = self.headers.get("If-Range") in (None, tag)
            if asked and site.ranges and unchanged:
                begin = int(asked.removeprefix("bytes=").rstrip("-"))
                if begin >= len(data):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(data)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(data) - begin))
            if site.tags:
                self.send_header("ETag", tag)
            self.end_headers()
            end = len(data)
            if site.cut.get(path):
                end = min(end, begin + site.cut[path].pop(0))
            try:
                for at in range(begin, end, site.block):
                    self.wfile.write(data[at : min(at + site.block, end)])
                    if site.pause_s:
                        self.wfile.flush()
                        time.sleep(site.pause_s)
            except OSError:  # the other side has gone
                pass

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}/"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
