"""The room Weave: recordings played as live streams, and the windows that come of them."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from clisonix.demo.body import small_json
from clisonix.demo.material import GENERATED, Shelf, bring, stock
from clisonix.demo.session import Session
from clisonix.errors import ClisonixError

TICK_S = 0.1
MOST_SESSIONS = 8
WINDOWS_S = (1.0, 2.0, 4.0)
Page = Callable[..., Response]


class WeaveRoom:
    """What the addresses below `/weave` answer.

    Args:
        root: the folder of recordings; None if there is none.
        page: draws a template.
    """

    def __init__(self, root: Path | None, page: Page) -> None:
        self._root, self._page = root, page
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._stocked: Shelf | None = None

    def warm(self) -> None:
        """Look through the recordings before somebody waits for it."""
        self._shelf()

    async def show(self, request: Request) -> Response:
        """The page."""
        shelf = await run_in_threadpool(self._shelf)
        key, window_s = self._wanted(request, shelf)
        return self._page(
            "weave.html",
            scripts=("plot.js", "weave.js"),
            pieces=shelf.pieces,
            unreadable=shelf.unreadable,
            chosen=key,
            generated=key == GENERATED,
            folder=None if self._root is None else str(self._root),
            windows=WINDOWS_S,
            window_s=window_s,
        )

    async def stream(self, request: Request) -> Response:
        """Server-sent events: `hello` once, then `step` ten times a second, or `problem` and no more."""
        shelf = await run_in_threadpool(self._shelf)
        key, window_s = self._wanted(request, shelf)
        if len(self._sessions) >= MOST_SESSIONS:
            return _events(
                _problem(f"{MOST_SESSIONS} pages play already: close one of them and load this page again")
            )
        piece = shelf.find(key)
        assert piece is not None
        name = secrets.token_hex(8)
        try:
            recording, notes = await run_in_threadpool(bring, piece)
            session = Session(recording, window_s)
        except ClisonixError as error:
            return _events(_problem(str(error)))
        hello = {"session": name, "notes": notes, "generated": key == GENERATED, **session.hello()}
        return _events(self._play(name, session, hello))

    async def change(self, request: Request) -> Response:
        """Pull a cable, make a clock drift, lose packets, or follow the clocks."""
        session = self._sessions.get(request.path_params["session"])
        if session is None:
            raise HTTPException(404)
        try:
            session.change(await small_json(request))
        except ClisonixError as error:
            return JSONResponse({"problem": str(error)}, 400)
        return JSONResponse({"done": True})

    async def _play(self, name: str, session: Session, hello: dict[str, Any]) -> AsyncIterator[bytes]:
        # Entered here, not before: an answer that is never read would otherwise keep its place.
        self._sessions[name] = session
        clock = asyncio.get_running_loop().time
        start_s = clock()
        try:
            yield _event("hello", hello)
            while True:
                yield _event("step", session.step(clock() - start_s))
                await asyncio.sleep(TICK_S)
        finally:
            del self._sessions[name]

    def _shelf(self) -> Shelf:
        with self._lock:
            if self._stocked is None:
                self._stocked = stock(self._root)
            return self._stocked

    def _wanted(self, request: Request, shelf: Shelf) -> tuple[str, float]:
        key = request.query_params.get("source", shelf.pieces[0].key)
        text = request.query_params.get("window", "2")
        window_s = next((w for w in WINDOWS_S if f"{w:g}" == text), None)
        if shelf.find(key) is None or window_s is None:
            raise HTTPException(404)
        return key, window_s


def _events(content: AsyncIterator[bytes]) -> Response:
    return StreamingResponse(content, media_type="text/event-stream")


async def _problem(sentence: str) -> AsyncIterator[bytes]:
    yield _event("problem", {"problem": sentence})


def _event(kind: str, content: dict[str, Any]) -> bytes:
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return f"event: {kind}\ndata: {text}\n\n".encode("utf-8", "replace")
