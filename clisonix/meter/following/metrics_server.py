"""The address where Prometheus finds a meter's figures: on this machine only."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer
from types import TracebackType

from clisonix.errors import ClisonixError
from clisonix.meter.following.exposition import CONTENT_TYPE, Exposition
from clisonix.meter.meter import Meter

HOST = "127.0.0.1"
PATIENCE_S = 2.0
"""How long one client may take to say what it wants, while others wait."""


class MetricsServer:
    """Answers `GET /metrics` while its `with` block runs; see `serve_metrics`.

    Attributes:
        port: the port; the one that was given out once the block has begun, where 0 was asked for.
    """

    def __init__(self, exposition: Exposition, port: int) -> None:
        self.port = port
        self._exposition = exposition
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._process = 0

    @property
    def url(self) -> str:
        """Where to read the metrics."""
        return f"http://{HOST}:{self.port}/metrics"

    def __enter__(self) -> MetricsServer:
        if self._server is not None:
            raise ClisonixError("the metrics server was used before: call `serve_metrics` again")
        try:
            self._server = _Server(self.port, self._exposition)
        except OSError as error:
            raise ClisonixError(
                f"port {self.port} of {HOST} cannot be used for metrics ({error.strerror or error}): "
                "give another, or 0 for a free one"
            ) from error
        self.port = int(self._server.server_address[1])
        self._process = os.getpid()
        # Waiting without a period: a poll now and then would use energy and delay the end.
        self._bell, self._ringer = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="clisonix-metrics", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End, and give the port back; doing so again, or in a forked child, does nothing."""
        if self._server is None or self._thread is None or self._process != os.getpid():
            return
        with contextlib.suppress(OSError):
            self._ringer.send(b"x")
        # No further answer begins, and the one under way ends within the client's patience.
        self._thread.join(2 * PATIENCE_S)
        # Processes forked meanwhile hold the socket as well; only this makes the port deaf for all of them.
        with contextlib.suppress(OSError):
            self._server.socket.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._bell.close()
        self._ringer.close()
        self._thread = None

    def _run(self) -> None:
        server = self._server
        assert server is not None
        with selectors.DefaultSelector() as ready:
            ready.register(server, selectors.EVENT_READ)
            ready.register(self._bell, selectors.EVENT_READ)
            while True:
                if any(key.fileobj is self._bell for key, _ in ready.select()):
                    return
                server.handle_request()


class _Server(TCPServer):
    allow_reuse_address = True
    timeout = 0

    def __init__(self, port: int, exposition: Exposition) -> None:
        self.exposition = exposition
        super().__init__((HOST, port), _Answer)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is nothing for the program's own output."""


class _Answer(BaseHTTPRequestHandler):
    timeout = PATIENCE_S
    server: _Server

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        port = self.server.server_address[1]
        host = self.headers.get("Host")
        # A page on the web whose name was made to point here would send its own name.
        if host is not None and host not in (f"{name}:{port}" for name in (HOST, "localhost")):
            self._send(HTTPStatus.FORBIDDEN, f"open this as http://{HOST}:{port}/metrics\n", "text/plain", body)
        elif self.path.partition("?")[0] not in ("/metrics", "/"):
            self._send(HTTPStatus.NOT_FOUND, "the metrics are at /metrics\n", "text/plain", body)
        else:
            try:
                status, text, kind = HTTPStatus.OK, self.server.exposition.text(), CONTENT_TYPE
            except Exception as error:  # the scraper is told, and the work goes on
                status, kind = HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain"
                text = f"the figures could not be made: {type(error).__name__}: {error}\n"
            self._send(status, text, kind, body)

    def _send(self, status: HTTPStatus, text: str, kind: str, body: bool) -> None:
        content = text.encode("utf-8", "replace")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a scrape every few seconds is no news."""

    def version_string(self) -> str:
        """Who answers; not which Python."""
        return "clisonix"


def serve_metrics(
    meter: Meter, port: int = 0, host: str = HOST, *, levels: int | None = 2, most: int = 50
) -> MetricsServer:
    """Offer a meter's figures to Prometheus, on this machine only.

    ```python
    with Meter(place="FRA") as meter, serve_metrics(meter) as metrics:
        print(metrics.url)
    ```

    One thread waits for requests; a request reads no sensor, only what the meter has sampled. To read the metrics
    from another machine, put a server of your own with a lock on it in front, or forward the port.

    Args:
        meter: whose figures.
        port: 0 takes a free one; `port` and `url` of the result tell which.
        host: must be this machine's own `127.0.0.1` or `localhost`.
        levels: window names are cut after so many levels; None leaves them whole.
        most: at most so many window names have lines.

    Returns:
        a context manager that serves inside its block.

    Raises:
        ClisonixError: another host, a port out of range, or one that is taken (when the block begins).
    """
    if host not in (HOST, "localhost"):
        raise ClisonixError(
            f"metrics are served on this machine only, and {host!r} would open them to others: leave host at {HOST} "
            "and forward the port"
        )
    if not 0 <= port <= 65535:
        raise ClisonixError(f"port {port} is none: give 1 to 65535, or 0 for a free one")
    return MetricsServer(Exposition(meter, levels, most), port)
