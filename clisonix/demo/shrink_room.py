"""The room Shrink: a model, a budget, and what becomes of both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from clisonix.demo.bench import FIRST, OBJECTIVES, Bench, Task
from clisonix.demo.body import samples, small_json
from clisonix.demo.pitch import INSTALL, RATE_HZ
from clisonix.demo.speech import MOST_S
from clisonix.errors import ClisonixError

Page = Callable[..., Response]


class ShrinkRoom:
    """What the addresses below `/shrink` answer.

    Args:
        root: the folder of recordings; None if there is none.
        page: draws a template.
    """

    def __init__(self, root: Path | None, page: Page) -> None:
        self.bench = Bench(root)
        self._page = page

    def warm(self) -> None:
        """Find models and speech before somebody waits for them."""
        _ = self.bench.trackers, self.bench.speech

    async def show(self, request: Request) -> Response:
        """The page."""
        trackers = await run_in_threadpool(lambda: self.bench.trackers)
        speech = await run_in_threadpool(lambda: self.bench.speech)
        return self._page(
            "shrink.html",
            scripts=("plot.js", "shrink.js"),
            trackers=list(trackers.values()),
            install=None if "crepe" in trackers else INSTALL,
            speech=speech,
            clips=self.bench.clips(),
            setting={"objectives": OBJECTIVES, "first": FIRST, "rate": RATE_HZ, "seconds": MOST_S},
        )

    async def state(self, request: Request) -> Response:
        """The frontier so far and what is being done, as JSON."""
        task = self._task(request)
        return JSONResponse(self.bench.state(task.tracker, task.objective))

    async def point(self, request: Request) -> Response:
        """One point of the frontier with one clip, as JSON; 202 and what there is of it until it is made."""
        clip = request.query_params.get("clip", "")
        if clip not in {c.name for c in self.bench.clips()}:
            raise HTTPException(404)
        done, found = await run_in_threadpool(self.bench.point, self._task(request), clip)
        return JSONResponse(found, 200 if done else 202)

    async def want(self, request: Request) -> Response:
        """Begin to make a point, and then the rest of its frontier."""
        try:
            content = await small_json(request)
            if not isinstance(share := content.get("share"), int | float):
                raise ClisonixError("share is not a number: send tracker, objective and share")
            self.bench.want(Task(str(content.get("tracker")), str(content.get("objective")), float(share)))
        except ClisonixError as error:
            return JSONResponse({"problem": str(error)}, 400)
        return JSONResponse({"done": True})

    async def hear(self, request: Request) -> Response:
        """Take what the microphone of a page heard; answers the name of the clip."""
        try:
            sound = await samples(request, int(MOST_S * RATE_HZ))
            name = await run_in_threadpool(self.bench.hear, sound)
        except ClisonixError as error:
            return JSONResponse({"problem": str(error)}, 400)
        return JSONResponse({"clip": name})

    def _task(self, request: Request) -> Task:
        """What the query names, if there is such a thing."""
        query = request.query_params
        objective, tracker = query.get("objective", ""), query.get("tracker", "")
        shares = OBJECTIVES.get(objective)
        if shares is None or tracker not in self.bench.trackers:
            raise HTTPException(404)
        text = query.get("share")
        share = FIRST[objective] if text is None else next((s for s in shares if f"{s:g}" == text), None)
        if share is None:
            raise HTTPException(404)
        return Task(tracker, objective, share)
