"""The pages, their addresses, and the room Account."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from clisonix.demo.guard import Guard, Seal
from clisonix.demo.later import Later
from clisonix.demo.listing import DAMAGED, damage, describe, run_folders
from clisonix.demo.whatif import what_if
from clisonix.errors import ClisonixError
from clisonix.meter.recording.record import read_record
from clisonix.meter.words import quantity, signed

if TYPE_CHECKING:
    from clisonix.demo.shrink_room import ShrinkRoom
    from clisonix.demo.weave_room import WeaveRoom

HERE = Path(__file__).parent
T = TypeVar("T")

# A report brings its own styles and pictures, and may show text from a record nobody here wrote: it may be
# drawn inside our page, but it can run nothing, load nothing and reach nothing.
REPORT_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)


STATIC = {
    "plot.js": "text/javascript",
    "weave.js": "text/javascript",
    "shrink.js": "text/javascript",
    "whatif.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
"""What pages load, and nothing else can be asked for."""
ROOM_OF = {"weave.html": "Weave", "shrink.html": "Shrink", "account.html": "Account", "whatif.html": "Account"}


def build_app(root: Path | None, token: str, data: Path | None = None) -> Starlette:
    """The application; see `create_app`."""
    style = (HERE / "style.css").read_text(encoding="utf-8")
    pages = Pages(root, style)

    def make_weave() -> WeaveRoom:
        from clisonix.demo.weave_room import WeaveRoom

        return WeaveRoom(data, pages.page)

    def make_shrink() -> ShrinkRoom:
        from clisonix.demo.shrink_room import ShrinkRoom

        return ShrinkRoom(data, pages.page)

    weave, shrink = Later(make_weave), Later(make_shrink)
    app = Starlette(
        routes=[
            Route("/static/{name}", _static),
            Route("/favicon.ico", _icon),
            weave.route("/weave", "show"),
            weave.route("/weave/stream", "stream"),
            weave.route("/weave/change/{session}", "change", ["POST"]),
            shrink.route("/shrink", "show"),
            shrink.route("/shrink/state", "state"),
            shrink.route("/shrink/point", "point"),
            shrink.route("/shrink/want", "want", ["POST"]),
            shrink.route("/shrink/hear", "hear", ["POST"]),
            Route("/", pages.account),
            Route("/what-if", pages.what_if),
            Route("/what-if/figures", pages.what_if_figures),
            Route("/run/{key:path}", pages.run),
            Route("/report/{key:path}", pages.report),
            Route("/compare", pages.comparison),
        ],
        middleware=[Middleware(Seal, policy=page_policy(style)), Middleware(Guard, token=token)],
        exception_handlers={HTTPException: _plain},
    )
    app.router.redirect_slashes = False

    app.state.warm = (lambda: weave.room().warm(), lambda: shrink.room().warm())
    return app


def page_policy(style: str, *, scripts: bool = False) -> str:
    """The Content-Security-Policy of our own pages: this one style sheet, our icon and reports, and nothing else.

    Args:
        style: the style sheet.
        scripts: also the scripts that come with the package, which may ask this program and nobody else.
    """
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    live = "script-src 'self'; connect-src 'self'; " if scripts else ""
    return (
        f"default-src 'none'; {live}style-src 'sha256-{digest}'; img-src 'self'; frame-src 'self'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    )


class Pages:
    """What each address answers.

    Args:
        root: the folder with the runs, read anew for every page; None if there is none.
        style: the style sheet, put into each page.
    """

    def __init__(self, root: Path | None, style: str) -> None:
        self._root = root
        self._live_policy = page_policy(style, scripts=True)
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined
        )
        self._templates.globals["style"] = Markup(style)  # ours, and its hash is in the policy
        self._templates.filters.update(quantity=quantity, signed=signed)

    def account(self, request: Request) -> Response:
        """The list of runs."""
        entries = [describe(key, folder) for key, folder in self._folders().items()]
        return self.page("account.html", entries=entries, folder=None if self._root is None else str(self._root))

    def what_if(self, request: Request) -> Response:
        """A page of its own: the others run no script, since they show what records hold."""
        entries = (describe(key, folder) for key, folder in self._folders().items())
        keys = [entry.key for entry in entries if not entry.problem]
        return self.page("whatif.html", scripts=("plot.js", "whatif.js"), keys=keys)

    def what_if_figures(self, request: Request) -> Response:
        """What a run would cost elsewhere and with use added, as JSON."""
        query = request.query_params
        key, folder = self._chosen(query.get("run", ""))
        try:
            pue, inferences = float(query.get("pue", "1")), int(query.get("inferences", "0"))
        except ValueError:
            return JSONResponse({"problem": "the PUE or the number of inferences is no number: send both"}, 400)
        found = _readable(key, lambda: what_if(read_record(folder), query.get("place", ""), pue, inferences))
        if isinstance(found, Problem):
            return JSONResponse({"problem": found.sentence}, 400)
        return JSONResponse(found)

    def run(self, request: Request) -> Response:
        """One run: its line and its report."""
        key, folder = self._chosen(request.path_params["key"])
        return self.page("run.html", entry=describe(key, folder))

    def report(self, request: Request) -> Response:
        """The report of a run, as a document of its own."""
        from clisonix.meter.reporting.report import render_html

        key, folder = self._chosen(request.path_params["key"])
        content = _readable(key, lambda: render_html(folder))
        if isinstance(content, Problem):
            return self.page("problem.html", title=key, problem=content.sentence, policy=REPORT_POLICY)
        return _html(content, REPORT_POLICY)

    def comparison(self, request: Request) -> Response:
        """Two runs side by side."""
        from clisonix.meter.comparing.compare import compare

        title = "Comparison"
        names = [request.query_params.get(side) for side in ("a", "b")]
        if names[0] is None or names[1] is None:
            return self.page("problem.html", title=title, problem="Choose a run for a and a run for b.")
        (key_a, a), (key_b, b) = self._chosen(names[0]), self._chosen(names[1])
        force = request.query_params.get("force") == "1"
        found = _readable(f"{key_a} or {key_b}", lambda: compare([a], [b], force=force))
        if isinstance(found, Problem):
            return self.page("refused.html", a=key_a, b=key_b, problem=found.sentence, forced=force)
        return self.page("compare.html", a=key_a, b=key_b, comparison=found)

    def _chosen(self, key: str) -> tuple[str, Path]:
        folder = self._folders().get(key)
        if folder is None:
            raise HTTPException(404)
        return key, folder

    def _folders(self) -> dict[str, Path]:
        return {} if self._root is None else run_folders(self._root)

    def page(
        self, template: str, *, policy: str | None = None, scripts: tuple[str, ...] = (), **values: object
    ) -> Response:
        """A page from its template; one with scripts has the policy that lets them run."""
        here = ROOM_OF.get(template)
        text = self._templates.get_template(template).render(scripts=scripts, here=here, **values)
        return _html(text, self._live_policy if scripts else policy)


class Problem:
    """Why something cannot be shown."""

    def __init__(self, sentence: str) -> None:
        self.sentence = sentence


def _readable(key: str, make: Callable[[], T]) -> T | Problem:
    try:
        return make()
    except ClisonixError as error:
        return Problem(str(error))
    except DAMAGED as error:
        return Problem(damage(key, error))


def _icon(request: Request) -> Response:
    return Response((HERE / "static" / "icon.svg").read_bytes(), media_type=STATIC["icon.svg"])


def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC:
        raise HTTPException(404)
    return Response((HERE / "static" / name).read_bytes(), media_type=STATIC[name])


def _html(content: str, policy: str | None = None) -> Response:
    # JSON may hold half a surrogate pair, which UTF-8 cannot.
    body = content.encode("utf-8", "replace")
    headers = {"content-security-policy": policy} if policy else None
    return Response(body, media_type="text/html; charset=utf-8", headers=headers)


def _plain(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = {
        404: "there is no such page or run",
        405: "this page can only be read",
        413: "that is more than anything here needs",
        415: "this kind of content is not taken here",
    }
    return PlainTextResponse(f"{status}: {words.get(status, 'this did not work')}.", status)
