"""The pages and their addresses."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from clisonix.demo.guard import Guard, Seal
from clisonix.demo.listing import DAMAGED, damage, describe, run_folders
from clisonix.errors import ClisonixError
from clisonix.meter.comparing.compare import compare
from clisonix.meter.reporting.report import render_html
from clisonix.meter.words import quantity, signed

HERE = Path(__file__).parent
T = TypeVar("T")

# A report brings its own styles and pictures, and may show text from a record nobody here wrote: it may be
# drawn inside our page, but it can run nothing, load nothing and reach nothing.
REPORT_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)


def build_app(root: Path, token: str) -> Starlette:
    """The application; see `create_app`."""
    style = (HERE / "style.css").read_text(encoding="utf-8")
    pages = Pages(root, style)
    app = Starlette(
        routes=[
            Route("/", pages.account),
            Route("/run/{key:path}", pages.run),
            Route("/report/{key:path}", pages.report),
            Route("/compare", pages.comparison),
        ],
        middleware=[Middleware(Seal, policy=page_policy(style)), Middleware(Guard, token=token)],
        exception_handlers={HTTPException: _plain},
    )
    app.router.redirect_slashes = False
    return app


def page_policy(style: str) -> str:
    """The Content-Security-Policy of our own pages: this one style sheet, our reports, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; frame-src 'self'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    )


class Pages:
    """What each address answers.

    Args:
        root: the folder with the runs; read anew for every page.
        style: the style sheet, put into each page.
    """

    def __init__(self, root: Path, style: str) -> None:
        self._root = root
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined
        )
        self._templates.globals["style"] = Markup(style)  # ours, and its hash is in the policy
        self._templates.filters.update(quantity=quantity, signed=signed)

    def account(self, request: Request) -> Response:
        """The list of runs."""
        entries = [describe(key, folder) for key, folder in run_folders(self._root).items()]
        return self._page("account.html", entries=entries, folder=str(self._root))

    def run(self, request: Request) -> Response:
        """One run: its line and its report."""
        key, folder = self._chosen(request.path_params["key"])
        return self._page("run.html", entry=describe(key, folder))

    def report(self, request: Request) -> Response:
        """The report of a run, as a document of its own."""
        key, folder = self._chosen(request.path_params["key"])
        content = _readable(key, lambda: render_html(folder))
        if isinstance(content, Problem):
            return self._page("problem.html", title=key, problem=content.sentence, policy=REPORT_POLICY)
        return _html(content, REPORT_POLICY)

    def comparison(self, request: Request) -> Response:
        """Two runs side by side."""
        title = "Comparison"
        names = [request.query_params.get(side) for side in ("a", "b")]
        if names[0] is None or names[1] is None:
            return self._page("problem.html", title=title, problem="Choose a run for a and a run for b.")
        (key_a, a), (key_b, b) = self._chosen(names[0]), self._chosen(names[1])
        force = request.query_params.get("force") == "1"
        found = _readable(f"{key_a} or {key_b}", lambda: compare([a], [b], force=force))
        if isinstance(found, Problem):
            return self._page("refused.html", a=key_a, b=key_b, problem=found.sentence, forced=force)
        return self._page("compare.html", a=key_a, b=key_b, comparison=found)

    def _chosen(self, key: str) -> tuple[str, Path]:
        folder = run_folders(self._root).get(key)
        if folder is None:
            raise HTTPException(404)
        return key, folder

    def _page(self, template: str, *, policy: str | None = None, **values: object) -> Response:
        return _html(self._templates.get_template(template).render(**values), policy)


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


def _html(content: str, policy: str | None = None) -> Response:
    # JSON may hold half a surrogate pair, which UTF-8 cannot.
    body = content.encode("utf-8", "replace")
    headers = {"content-security-policy": policy} if policy else None
    return Response(body, media_type="text/html; charset=utf-8", headers=headers)


def _plain(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = {404: "there is no such page or run", 405: "this page can only be read"}
    return PlainTextResponse(f"{status}: {words.get(status, 'this did not work')}.", status)
