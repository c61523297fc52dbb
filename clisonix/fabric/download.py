"""One file over HTTP, taken up again where an earlier attempt ended."""

from __future__ import annotations

import errno
import http.client
import json
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO

from clisonix.errors import ClisonixError
from clisonix.files import cannot_write, write_json

_BLOCK = 1 << 18
_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True)
class Patience:
    """How long to bear with a server.

    Attributes:
        attempts: in a row without a single new byte.
        wait_s: before the second attempt; doubles each time, up to a minute.
        timeout_s: without an answer, or without a byte of it.
    """

    attempts: int = 6
    wait_s: float = 1.0
    timeout_s: float = 30.0


class Stopped(Exception):  # noqa: N818 - not an error
    """Another download failed, so this one was given up; what has arrived is kept."""


class _LaterError(Exception):
    """The attempt failed in a way that may pass."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Download:
    """Brings one file into `part`, which grows from attempt to attempt, and from process to process.

    Beside it, `part.json` keeps what the server called the version that the bytes belong to (RFC 9110, `If-Range`),
    so that two versions are never joined. A server that ignores `Range` makes it start anew.

    Attributes:
        resumed: whether bytes of an earlier attempt were used.

    Args:
        part: the file that grows.
        patience: with the server.
        checked: the caller knows the hash; else bytes are joined only where the server names their version.
        arrived: told how many bytes more there are.
        stop: when set, the download ends with `Stopped`.
    """

    def __init__(
        self,
        part: Path,
        *,
        patience: Patience,
        checked: bool,
        arrived: Callable[[int], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self.part = part
        self.resumed = False
        self._note = part.with_name(part.name + ".json")
        self._patience, self._checked = patience, checked
        self._arrived = arrived or (lambda count: None)
        self._stop = stop or threading.Event()
        self._reported = 0

    def __call__(self, url: str, output: str | Path, *_: object, **__: object) -> None:
        """Download `url` and move it to `output`; the signature is what pooch calls a downloader by.

        Raises:
            ClisonixError: the file is not there, the server does not answer or cuts off time and again, or the disk
                is full.
            Stopped: somebody set `stop`.
        """
        self.part.parent.mkdir(parents=True, exist_ok=True)
        failures = 0
        while True:
            had = self._have()
            try:
                if self._attempt(url, had):
                    break
                raise _LaterError("the connection was cut")
            except _LaterError as error:
                failures = 1 if self._have() > had else failures + 1
                if failures >= self._patience.attempts:
                    raise ClisonixError(
                        f"cannot download {url} ({error}, {failures} times in a row): "
                        f"{self._have()} bytes are kept, and the same command goes on from there"
                    ) from error
                wait_s = max(error.wait_s, self._patience.wait_s * 2 ** (failures - 1))
            if self._stop.wait(min(wait_s, _LONGEST_WAIT_S)):
                raise Stopped
        os.replace(self.part, output)
        self._note.unlink(missing_ok=True)

    def _have(self) -> int:
        try:
            return self.part.stat().st_size
        except FileNotFoundError:
            return 0

    def _attempt(self, url: str, had: int) -> bool:
        """Ask once; True when the file is complete."""
        headers = {"User-Agent": "clisonix", "Accept-Encoding": "identity"}
        tag = self._version()
        if had and (tag or self._checked):
            headers["Range"] = f"bytes={had}-"
            if tag:
                headers["If-Range"] = tag
        try:
            with _opener().open(
                urllib.request.Request(url, headers=headers), timeout=self._patience.timeout_s
            ) as answer:
                return self._receive(url, answer, had)
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(url, error, had)
        except urllib.error.URLError as error:
            raise _LaterError(str(error.reason)) from error
        except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
            raise _LaterError(str(error) or type(error).__name__) from error

    def _refused(self, url: str, error: urllib.error.HTTPError, had: int) -> bool:
        if error.code == 416 and had:
            whole = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
            if whole and int(whole[1]) == had:
                return True
            self.part.unlink()
            raise _LaterError("the part that was there does not fit the file")
        if error.code in _LATER:
            raise _LaterError(f"the server answered {error.code}", _retry_after(error.headers)) from error
        raise ClisonixError(f"cannot download {url}: the server answered {error.code} {error.reason}") from error

    def _receive(self, url: str, answer: http.client.HTTPResponse, had: int) -> bool:
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise ClisonixError(f"cannot download {url}: the server sent it compressed although it was not asked to")
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        begin = int(span[1]) if answer.status == 206 and span else 0
        if begin not in (0, had) or (answer.status == 206 and not span):
            raise _LaterError("the server sent another part than the one asked for")
        self.resumed |= begin > 0
        length = answer.headers.get("Content-Length")
        end = None if length is None else begin + int(length)
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        try:
            if begin == 0:
                # A weak tag says nothing about bytes, so it cannot join two halves.
                write_json(self._note, {"url": url, "version": tag if tag and not tag.startswith("W/") else None})
            with self.part.open("r+b" if begin else "wb") as file:
                file.seek(begin)
                self._report(begin)
                got = begin + self._copy(answer, file, begin)
        except OSError as error:
            if isinstance(error, (TimeoutError, ConnectionError)):
                raise
            raise _no_room(self.part, error, url) from error
        if end is None and span and span[2] != "*":
            end = int(span[2])
        return end is None or got >= end

    def _copy(self, answer: http.client.HTTPResponse, file: IO[bytes], begin: int) -> int:
        copied = 0
        try:
            while block := answer.read1(_BLOCK):
                if self._stop.is_set():
                    raise Stopped
                file.write(block)
                copied += len(block)
                self._report(begin + copied)
        finally:
            file.flush()
        os.fsync(file.fileno())
        return copied

    def _report(self, upto: int) -> None:
        # After a start from zero the same bytes come again; they were counted.
        if upto > self._reported:
            self._arrived(upto - self._reported)
            self._reported = upto

    def _version(self) -> str | None:
        try:
            version = json.loads(self._note.read_text())["version"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return version if isinstance(version, str) else None


class SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from HTTPS to anything less."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not newurl.startswith(("https://", "http://")) or (req.type == "https" and newurl.startswith("http://")):
            raise ClisonixError(f"cannot download {req.full_url}: it leads to {newurl}, which is not secure")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(SafeRedirects)


def _retry_after(headers: Message) -> float:
    text = headers.get("Retry-After", "")
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _no_room(part: Path, error: OSError, url: str) -> ClisonixError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ClisonixError(
            f"the disk is full: {url} did not fit below {part.parent}; what has arrived is kept, and the same "
            "command goes on from there once there is room"
        )
    return cannot_write(part, error)
