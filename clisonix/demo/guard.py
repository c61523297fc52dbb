"""Who may see a page: only a browser on this machine that was given the token."""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost")

# The cookie is only sent on requests that our own pages cause, and after a redirect the browser still counts
# the page that linked here as the cause. So the first answer is a page of ours that moves on by itself.
_ENTRANCE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Clisonix</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<h1>Clisonix</h1><p>Getting the signals ready. <a href="/weave">Open Clisonix</a></p></html>"""
"""Stands on the screen until the first room is ready."""


class Guard:
    """ASGI middleware that lets a request through only with the right `Host` and the right token.

    A page on the web can make the browser send requests to this machine, and by DNS rebinding even read the
    answers. Its `Host` would then be its own name. Another program or user on this machine can connect as
    well, but has no token.

    Args:
        app: what to protect.
        token: the secret; given once as `?token=`, then kept in a cookie that scripts cannot read and other
            sites cannot use.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await (self._answer(scope) or self._app)(scope, receive, send)

    def _answer(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        port = (scope.get("server") or (None, None))[1]
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0] not in _names(port):
            return PlainTextResponse("403: open this page as http://127.0.0.1 with its port.", 403)
        if _foreign(headers, scope["method"], port):
            return PlainTextResponse("403: another page may not use this one.", 403)
        cookie_name = f"clisonix-{port}"
        if self._is_token(_cookie(headers, cookie_name)):
            return None
        if self._is_token(QueryParams(scope["query_string"]).get("token")):
            entrance = HTMLResponse(_ENTRANCE, headers={"Refresh": "0; url=/weave"})
            entrance.set_cookie(cookie_name, self._token.decode(), httponly=True, samesite="strict", path="/")
            return entrance
        return PlainTextResponse(
            "403: the token is missing or wrong; open the address that the program printed.", 403
        )

    def _is_token(self, given: str | None) -> bool:
        return given is not None and hmac.compare_digest(given.encode(errors="replace"), self._token)


class Seal:
    """ASGI middleware that adds the headers which keep a page shut in, unless it brought its own.

    Args:
        app: what to add them to.
        policy: the Content-Security-Policy of pages that state none.
    """

    def __init__(self, app: ASGIApp, policy: str) -> None:
        self._app = app
        self._headers = {
            "content-security-policy": policy,
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
            "cache-control": "no-store",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, sealed)


def _names(port: int | None) -> set[str]:
    names = {f"{host}:{port}" for host in HOSTS}
    return names | set(HOSTS) if port == 80 else names


def _foreign(headers: Headers, method: str, port: int | None) -> bool:
    """Whether another page caused this request. Whatever changes something must say which page it comes from."""
    origins = headers.getlist("origin")
    ours = {f"http://{name}" for name in _names(port)}
    if any(origin not in ours for origin in origins) or len(origins) > 1:
        return True
    if method not in ("GET", "HEAD") and not origins:
        return True
    # A link from elsewhere is followed; what a page elsewhere wants to load is not given.
    site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode", "navigate")
    return site not in ("none", "same-origin") and mode != "navigate"


def _cookie(headers: Headers, name: str) -> str | None:
    for line in headers.getlist("cookie"):
        try:
            morsel = SimpleCookie(line).get(name)
        except CookieError:
            continue
        if morsel is not None:
            return morsel.value
    return None
