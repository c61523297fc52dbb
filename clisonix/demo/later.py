"""A room that is furnished while the program answers already: importing torch takes seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Room = TypeVar("Room")


class Later(Generic[Room]):
    """A room that is made once, by whoever needs it first.

    Args:
        make: imports and makes it.
    """

    def __init__(self, make: Callable[[], Room]) -> None:
        self._make = make
        self._made: Room | None = None
        self._lock = threading.Lock()

    def room(self) -> Room:
        """The room; waits until it is there."""
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def route(self, path: str, answer: str, methods: Sequence[str] = ("GET",)) -> Route:
        """An address that the room's method `answer` answers."""

        async def wait(request: Request) -> Response:
            room = self._made if self._made is not None else await run_in_threadpool(self.room)
            found: Response = await getattr(room, answer)(request)
            return found

        return Route(path, wait, methods=list(methods))
