"""What the pages say: the record's numbers, as text, from this folder only."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from urllib.parse import quote

import pytest
from example_runs import TOKEN, make_run
from starlette.testclient import TestClient

Maker = Callable[[Path], TestClient]
HOSTILE = "<img src=x onerror=alert(1)> & \"q\" 'a' {{7*7}}"


def figures(html: str, name: str) -> list[str]:
    return re.findall(rf'<data class="{name}" value="([^"]*)">', html)


def test_the_list_shows_what_the_records_say(client: TestClient) -> None:
    html = client.get("/").text
    assert figures(html, "quality") == ["0.8125", "0.8125"]
    assert figures(html, "seconds") == ["61.75", "30.875"]
    assert figures(html, "bytes") == ["40960", "5120"]
    assert figures(html, "energy") == ["1234.5", "1234.5"]
    assert html.count("counted by RAPL") == 2
    for text in ("81.2 %", "79.0 % to 83.0 %", "1.03 min", "41.0 kB", "1.23 kJ", "1.20 to 1.30 kJ"):
        assert text in html


def test_unknown_is_written_as_unknown(runs: Path, client: TestClient) -> None:
    make_run(runs / "early", energy={}, quality=None, time={}, size={})
    html = client.get("/run/early").text
    for name in ("quality", "seconds", "bytes", "energy"):
        assert figures(html, name) == [""]
    assert html.count(">unknown</data>") == 4
    assert "no energy for the window" in unescape(html)


def test_a_run_page_holds_its_figures_and_its_report(client: TestClient) -> None:
    html = client.get("/run/packed").text
    assert figures(html, "seconds") == ["30.875"]
    report = client.get("/report/packed")
    assert report.status_code == 200
    assert report.headers["content-type"] == "text/html; charset=utf-8"
    assert "counted by RAPL" in report.text


def test_a_comparison_shows_both_sides_and_the_ratio(client: TestClient) -> None:
    html = client.get("/compare?a=dense&b=packed").text
    assert [float(x) for x in figures(html, "size-a") + figures(html, "size-b")] == [40960, 5120]
    assert [float(x) for x in figures(html, "energy-a") + figures(html, "time-b")] == [1234.5, 30.875]
    assert figures(html, "size-ratio") == ["0.125"]
    assert figures(html, "time-ratio") == ["0.5"]


def test_runs_that_cannot_be_compared_are_refused_with_the_reason_and_a_way_on(
    runs: Path, client: TestClient
) -> None:
    make_run(runs / "other", task="heart beats")
    refused = unescape(client.get("/compare?a=dense&b=other").text)
    assert "the task differs" in refused
    assert 'name="force" value="1"' in refused
    forced = client.get("/compare?a=dense&b=other&force=1").text
    assert figures(forced, "time-ratio") == ["1.0"]


def test_a_comparison_needs_both_sides(client: TestClient) -> None:
    assert "Choose a run for a" in client.get("/compare?a=dense").text


def test_groups_of_seeds_are_listed_one_level_down(runs: Path, client: TestClient) -> None:
    make_run(runs / "group" / "seed-1", time={"train_s": 5.5})
    assert figures(client.get("/run/group/seed-1").text, "seconds") == ["5.5"]
    assert "/run/group/seed-1" in client.get("/").text


def test_a_hostile_name_stays_text(runs: Path, client: TestClient) -> None:
    folder = HOSTILE.replace("/", "")
    make_run(runs / folder, name=HOSTILE, task=HOSTILE)
    for page in ("/", f"/run/{quote(folder)}", f"/compare?a=dense&b={quote(folder)}&force=1"):
        answer = client.get(page)
        assert answer.status_code == 200
        assert "<img" not in answer.text
        assert "onerror" in answer.text
        assert folder in unescape(answer.text)
    assert "<img" not in client.get(f"/report/{quote(folder)}").text
    links = re.findall(r'<a href="(/run/[^"]*)"', client.get("/").text)
    assert [client.get(unescape(link)).status_code for link in links] == [200] * 3


@pytest.mark.parametrize(
    "key",
    [
        "..%2Fsecret%2Fother",
        "%2e%2e/secret/other",
        "dense%2F..%2F..%2Fsecret%2Fother",
        "dense/../../secret/other",
        "%2Fetc",
        "dense%00",
        "dense/",
        "",
        ".",
        "link",
        "Dense2",
    ],
)
def test_no_address_leads_out_of_the_folder(runs: Path, client: TestClient, key: str) -> None:
    (runs / "link").symlink_to(runs.parent / "secret" / "other")
    for page in (f"/run/{key}", f"/report/{key}", f"/compare?a=dense&b={key}"):
        answer = client.get(page)
        assert answer.status_code == 404
        assert answer.text == "404: there is no such page or run."


def test_a_link_that_leads_out_is_not_listed(runs: Path, client: TestClient) -> None:
    (runs / "link").symlink_to(runs.parent / "secret" / "other")
    html = client.get("/").text
    assert "link" not in re.findall(r'value="([^"]*)" required', html)
    assert "SECRET" not in html


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: "{",
        lambda content: "[]",
        lambda content: "",
        lambda content: "[" * 100_000,
        lambda content: json.dumps({**content, "schema": "clisonix.record/99"}),
        lambda content: json.dumps({**content, "quality": 3}),
        lambda content: json.dumps({**content, "quality": {"metric": "accuracy", "value": "high"}}),
        lambda content: json.dumps({**content, "time": {"train_s": "long"}}),
        lambda content: json.dumps({**content, "size": {"bytes": [1]}}),
        lambda content: json.dumps({**content, "energy": {"train": {}}}),
        lambda content: json.dumps({**content, "energy": {"train": {"total": 7}}}),
        lambda content: b"\xff\xfe\x00",
    ],
)
def test_a_broken_record_is_a_sentence_and_the_others_stay(
    runs: Path, client: TestClient, damage: Callable[[dict[str, object]], str | bytes]
) -> None:
    make_run(runs / "broken")
    path = runs / "broken" / "record.json"
    content = damage(json.loads(path.read_text()))
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    html = client.get("/").text
    assert figures(html, "seconds") == ["61.75", "30.875"]
    assert re.search(r'<th scope="row">broken</th>\s*<td colspan="5" class="problem">[^<]+</td>', html)
    assert 'class="problem"' in client.get("/run/broken").text
    assert client.get("/report/broken").status_code == 200
    assert client.get("/compare?a=dense&b=broken").status_code == 200


def test_names_that_are_not_unicode_do_not_break_a_page(runs: Path, client: TestClient) -> None:
    path = runs / "dense" / "record.json"
    path.write_text(path.read_text().replace("sleep stages", "\\ud800 stages"))
    make_run(runs / "caf\udce9")
    assert figures(client.get("/").text, "seconds") == ["61.75", "61.75", "30.875"]
    assert figures(client.get(f"/run/{quote('caf')}%5Cxe9").text, "seconds") == ["61.75"]
    assert client.get("/report/dense").status_code == 200


def test_an_empty_folder_says_what_a_run_is(tmp_path: Path, make_client: Maker) -> None:
    client = make_client(tmp_path)
    client.get(f"/?token={TOKEN}")
    assert "a run is a folder with a <code>record.json</code>" in client.get("/").text
