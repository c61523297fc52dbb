"""Who gets in: the host, the token, and the headers that shut a page in."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from example_runs import TOKEN
from starlette.testclient import TestClient

from clisonix.demo import create_app, serve
from clisonix.errors import ClisonixError

Maker = Callable[[Path], TestClient]
PAGES = ["/", "/run/dense", "/report/dense", "/compare?a=dense&b=packed", "/nothing"]
LIVE = [
    "/weave",
    "/weave/stream?source=generated",
    "/weave/change/0123456789abcdef",
    "/shrink",
    "/shrink/state?tracker=stand-in&objective=bytes",
    "/shrink/point?tracker=stand-in&objective=bytes&share=0.3&clip=x",
    "/shrink/want",
    "/static/weave.js",
]
OWN = {"origin": "http://127.0.0.1:8123"}


@pytest.mark.parametrize("page", PAGES + LIVE)
@pytest.mark.parametrize("query", ["", "token=", "token=wrong", f"token={TOKEN}x", "token=%ff%00"])
def test_without_the_token_nothing_is_shown(runs: Path, make_client: Maker, page: str, query: str) -> None:
    answer = make_client(runs).get(page + ("&" if "?" in page else "?") + query)
    assert answer.status_code == 403
    assert answer.text.startswith("403: the token is missing or wrong")
    assert "set-cookie" not in answer.headers


def test_the_token_is_given_once_and_then_kept_where_scripts_and_other_sites_cannot_reach(
    runs: Path, make_client: Maker
) -> None:
    client = make_client(runs)
    entrance = client.get(f"/?token={TOKEN}")
    cookie = entrance.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert entrance.headers["refresh"] == "0; url=/weave"
    assert "dense" not in entrance.text
    assert TOKEN not in entrance.text
    assert "dense" in client.get("/").text


@pytest.mark.parametrize("cookie", ["clisonix-8123=wrong", "clisonix-9999=" + TOKEN, "token=" + TOKEN, "=;;"])
def test_another_cookie_does_not_open(runs: Path, make_client: Maker, cookie: str) -> None:
    assert make_client(runs).get("/", headers={"cookie": cookie}).status_code == 403


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8123",
        "127.0.0.1",
        "127.0.0.1:8124",
        "127.0.0.1:8123.evil.example",
        "localhost:8123@evil.example",
        "",
    ],
)
def test_another_host_name_is_refused_even_with_the_token(client: TestClient, host: str) -> None:
    answer = client.get(f"/?token={TOKEN}", headers={"host": host})
    assert answer.status_code == 403
    assert "dense" not in answer.text
    assert client.get("/", headers={"host": host}).status_code == 403


def test_two_host_headers_are_refused(client: TestClient) -> None:
    answer = client.get("/", headers=[("host", "127.0.0.1:8123"), ("host", "evil.example")])
    assert answer.status_code == 403


def test_localhost_is_this_machine_too(client: TestClient) -> None:
    cookie = f"clisonix-8123={TOKEN}"
    assert client.get("/", headers={"host": "localhost:8123", "cookie": cookie}).status_code == 200


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_sealed(client: TestClient, page: str) -> None:
    headers = client.get(page).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "http" not in policy
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


def test_refusals_are_sealed_too(runs: Path, make_client: Maker) -> None:
    assert "default-src 'none'" in make_client(runs).get("/").headers["content-security-policy"]


@pytest.mark.parametrize("page", PAGES[:2] + PAGES[3:4])
def test_the_one_style_sheet_is_the_one_the_policy_names(client: TestClient, page: str) -> None:
    answer = client.get(page)
    styles = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    assert len(styles) == 1
    digest = base64.b64encode(hashlib.sha256(styles[0].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in answer.headers["content-security-policy"]
    assert " style=" not in answer.text


@pytest.mark.parametrize("page", PAGES[:4])
def test_no_page_asks_another_machine_for_anything(client: TestClient, page: str) -> None:
    text = client.get(page).text.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"(src|href|action)\s*=\s*[\"']?\s*(https?:|//)|url\(|@import|<script", text)


def test_a_report_can_run_nothing_and_is_drawn_in_a_sandbox(client: TestClient) -> None:
    policy = client.get("/report/dense").headers["content-security-policy"]
    assert policy.startswith("sandbox;")
    assert "frame-ancestors 'self'" in policy
    assert re.search(r'<iframe src="/report/dense"[^>]* sandbox>', client.get("/run/dense").text)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_pages_can_only_be_read(client: TestClient, method: str) -> None:
    answer = client.request(method, "/", headers=OWN)
    assert answer.status_code == 405
    assert answer.text == "405: this page can only be read."


def test_a_missing_folder_and_a_guessable_token_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ClisonixError, match="is not a folder"):
        create_app(tmp_path / "none", TOKEN)
    with pytest.raises(ClisonixError, match="shorter than 16"):
        create_app(tmp_path, "1234")


def test_a_port_that_cannot_be_had_is_one_sentence(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("uvicorn", reason="needs the extra demo")

    def taken(self: socket.socket, address: tuple[str, int]) -> None:
        assert address == ("127.0.0.1", 8123)
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(socket.socket, "bind", taken)
    with pytest.raises(ClisonixError, match="cannot listen on port 8123"):
        serve(runs, port=8123)


@pytest.mark.parametrize("page", LIVE)
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example:8123"},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:8124"},
        {"origin": "https://127.0.0.1:8123"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors", **OWN},
    ],
)
def test_no_other_page_can_use_the_rooms(client: TestClient, page: str, method: str, headers: dict[str, str]) -> None:
    answer = client.request(method, page, headers=headers)
    assert answer.status_code == 403
    assert answer.text.startswith("403: ")


@pytest.mark.parametrize("page", ["/weave/change/0123456789abcdef", "/shrink/want"])
def test_what_changes_something_must_say_where_it_comes_from_and_be_small_json(client: TestClient, page: str) -> None:
    assert client.post(page, json={}).status_code == 403
    assert client.post("/shrink/want", json={}, headers=OWN).status_code == 400
    assert client.post("/shrink/want", content="{}", headers={**OWN, "content-type": "text/plain"}).status_code == 415
    assert client.post("/shrink/want", json={"x": "y" * 5000}, headers=OWN).status_code == 413
    for odd in ("[]", "{", "[" * 3000, "7"):
        answer = client.post("/shrink/want", content=odd, headers={**OWN, "content-type": "application/json"})
        assert answer.status_code == 400
        assert "problem" in answer.json()


@pytest.mark.parametrize("page", ["/weave", "/shrink"])
def test_rooms_run_only_the_scripts_of_the_package_and_ask_nobody_else(client: TestClient, page: str) -> None:
    answer = client.get(page)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'; connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not re.search(r"<script(?! src=\"/static/\w+\.js\" defer)", answer.text)
    assert not re.search(r"\son\w+=|\sstyle=|(src|href|action)=\"(https?:)?//", answer.text)
    for script in re.findall(r'<script src="([^"]+)"', answer.text):
        found = client.get(script)
        assert found.status_code == 200
        assert found.headers["content-type"].startswith("text/javascript")
        assert not re.search(r"https?://|//[a-z]+\.[a-z]|innerHTML|eval\(|document\.write", found.text)


@pytest.mark.parametrize(
    "name", ["..%2Fguard.py", "%2e%2e/app.py", "%2Fetc%2Fpasswd", "style.css", "", "weave.js%00"]
)
def test_only_files_for_pages_are_given(client: TestClient, name: str) -> None:
    assert client.get(f"/static/{name}").status_code == 404
