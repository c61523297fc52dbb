"""The rooms in a real browser: used by mouse and keyboard, with the numbers of the program, asking nobody else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from example_runs import make_run

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: it is in the extra dev")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    # A microphone that beeps, which nobody is asked to allow.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
SIZES = [(1280, "light"), (390, "dark")]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address that `clisonix demo` prints, with a run, a sound file and a table of another rate."""
    root = tmp_path_factory.mktemp("demo")
    make_run(root / "runs" / "dense")
    (root / "data").mkdir()
    time_s = np.arange(16 * 8000) / 8000
    sound = 0.3 * np.sin(2 * np.pi * np.cumsum(150 + 40 * np.sin(time_s)) / 8000)
    soundfile.write(root / "data" / "talk.wav", sound + 0.01 * np.sin(1e3 * time_s), 8000)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("CLISONIX_DATA", None)
    command = [sys.executable, "-m", "clisonix.cli", "demo", str(root / "runs"), "--data", str(root / "data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", process.stdout.readline())
            assert found is not None
            yield found[0]
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


class Visit:
    """A page that entered with the token, and what it complained about and asked for."""

    def __init__(self, browser: Any, address: str, width: int, scheme: str) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.set_default_timeout(240_000)
        self.complaints: list[str] = []
        self.asked: set[str] = set()
        self.base = address.partition("?")[0]
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.context.on("request", lambda request: self.asked.add(request.url))
        self.page.goto(address)
        self.page.wait_for_url("**/weave")

    def value(self, selector: str) -> float:
        return float(self.page.get_attribute(selector, "value"))

    def wait(self, expression: str) -> None:
        """Until it holds. The page's policy keeps the browser from asking itself again and again."""
        end = time.monotonic() + 120
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.05)

    def done(self) -> None:
        """Nothing overflowed, nothing was complained about, nobody else was asked."""
        width = self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1]
        assert self.complaints == []
        assert {url for url in self.asked if not url.startswith(self.base)} == set()
        serious = violations(self.page)
        assert serious == []


def violations(page: Any) -> list[str]:
    """What axe-core finds serious; nothing where it is not installed."""
    try:
        import axe_playwright_python
    except ImportError:
        return []
    # The page's own policy lets no other script in, so it is run from outside.
    page.evaluate((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text())
    found = page.evaluate("axe.run().then(r => r.violations.map(v => [v.id, v.impact, v.nodes[0].html]))")
    return [str(v) for v in found if v[1] in ("serious", "critical")]


@pytest.fixture(params=SIZES, ids=lambda size: f"{size[0]}-{size[1]}")
def visit(request: pytest.FixtureRequest, browser: Any, address: str) -> Iterator[Visit]:
    made = Visit(browser, address, *request.param)
    yield made
    made.context.close()


def test_weave_plays_and_a_pulled_cable_is_masked(visit: Visit) -> None:
    page = visit.page
    page.select_option("select[name=source]", "generated")
    page.select_option("select[name=window]", "1")
    page.get_by_role("button", name="Play").click()
    page.wait_for_selector("#newest[data-window]")
    rows = page.locator("#newest tbody tr")
    assert rows.locator("th").all_inner_texts() == ["eeg", "audio", "pulse", "wrist"]
    samples = [float(x.get_attribute("value")) for x in rows.locator("data.samples").all()]
    assert samples == [256, 8000, 64, 32]  # one second at each rate
    page.get_by_role("button", name="Pull the cable of eeg").press("Enter")
    visit.wait("document.querySelector('#newest data.measured').value === '0'")
    assert page.locator("#newest data.heard").first.inner_text() == "silent"
    assert visit.value("#newest tbody tr:nth-child(2) data.measured") == 1
    page.get_by_label("Drift of wrist").select_option("5000")
    visit.wait("document.querySelectorAll('#newest data.off')[3].value > 0.005")
    drawn = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v > 0)"
    assert page.locator(".lane canvas").nth(1).evaluate(drawn)
    visit.done()


def test_shrink_tells_the_numbers_of_the_program(visit: Visit) -> None:
    page = visit.page
    page.goto(visit.base + "shrink")
    page.wait_for_selector("body[data-ready=true] #figures data.bytes")
    query = "tracker=stand-in&objective=bytes&share=0.3&clip=" + page.input_value("#clip")
    found = page.evaluate("q => fetch('/shrink/point?' + q).then(r => r.json())", query)
    for name in ("bytes", "close", "seconds", "joules"):
        assert visit.value(f"#figures data.{name}") == found["summary"][name]
    assert found["summary"]["bytes"] <= 0.3 * found["summary"]["dense_bytes"]
    shown = page.locator("#plan tbody tr th").all_inner_texts()
    assert shown == [layer["name"] for layer in found["plan"]["layers"]]
    assert "30 %" in page.inner_text("#budget-text")
    # By keyboard to a budget that is not made, and back to the one that is: at once.
    page.focus("#budget")
    page.keyboard.press("End")
    assert "80 %" in page.inner_text("#budget-text")
    page.evaluate("delete document.body.dataset.answered")
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    page.wait_for_selector("body[data-answered]")
    assert float(page.get_attribute("body", "data-answered")) < 1000
    assert visit.value("#figures data.bytes") == found["summary"]["bytes"]
    visit.done()


def test_the_microphone_is_heard_by_both_models(visit: Visit) -> None:
    page = visit.page
    page.goto(visit.base + "shrink")
    page.wait_for_selector("body[data-ready=true] #figures data.bytes")
    page.get_by_role("button", name="Record").press("Enter")
    visit.wait("document.getElementById('clip').value.startsWith('microphone')")
    visit.wait("document.getElementById('compressed').getAttribute('aria-label').startsWith('Pitch found')")
    assert page.inner_text("#problem") == ""
    assert "gone when the program ends" in page.inner_text("#recording")
    query = "tracker=stand-in&objective=bytes&share=0.3&clip=" + page.input_value("#clip")
    found = page.evaluate("q => fetch('/shrink/point?' + q).then(r => r.json())", query)
    # Three seconds, a frame every 10 ms, and the beeps are loud.
    assert found["clip"]["dense"]["frames"] == pytest.approx(300, abs=15)
    assert max(max(high, -low) for low, high in found["clip"]["outline"]) == 1.0
    visit.done()


def test_without_a_microphone_the_page_says_so(visit: Visit) -> None:
    page = visit.page
    refusal = "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError'); }"
    page.add_init_script(refusal)
    page.goto(visit.base + "shrink")
    page.get_by_role("button", name="Record").click()
    visit.wait("document.getElementById('problem').textContent.includes('was not allowed')")
    assert page.get_by_role("button", name="Record").is_enabled()
    visit.done()


def test_account_and_all_rooms_are_reached_by_keyboard(visit: Visit) -> None:
    page = visit.page
    page.wait_for_selector(".lane canvas")
    for room, address in (("Shrink", "shrink"), ("Account", "")):
        page.evaluate("document.body.tabIndex = -1; document.body.focus()")
        for _ in range(6):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent") == room:
                break
        page.keyboard.press("Enter")
        page.wait_for_url(visit.base + address)
        assert page.inner_text("nav [aria-current]") == room
    assert visit.value("data.energy") == 1234.5
    visit.done()


def test_what_if_tells_the_numbers_of_the_program(visit: Visit) -> None:
    page = visit.page
    page.goto(visit.base + "what-if")
    page.fill("#what-place", "FRA")
    page.focus("#what-pue")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.wait_for_selector("data.what-all-in")
    visit.wait("document.body.dataset.told === '[0,1.2]'")
    found = page.evaluate("fetch('/what-if/figures?run=dense&place=FRA&pue=1.2&inferences=0').then(r => r.json())")
    assert visit.value("data.what-training") == found["training"]["joules"] == 1234.5
    assert visit.value("data.what-grams") == found["carbon"]["grams"]
    assert (
        visit.value("data.what-all-in") == found["all_in"]["grams"] == pytest.approx(1.2 * found["carbon"]["grams"])
    )
    assert str(found["carbon"]["year"]) in page.inner_text("#what-source")
    # This run measured no evaluation: there is a reason and no number.
    page.focus("#what-count")
    page.keyboard.press("End")
    page.wait_for_selector("data.what-use")
    assert page.get_attribute("data.what-use", "value") == ""
    assert page.get_attribute("data.what-grams", "value") == ""
    page.fill("#what-place", "Atlantis")
    visit.wait("document.getElementById('what-problem').textContent.includes('Atlantis')")
    assert page.locator("data.what-grams").count() == 0
    visit.done()
