"""How long the demo keeps people waiting, in a real browser: the first picture, the slider, several tabs; and whether
its memory stays flat.

    python scripts/bench/demo.py --data FOLDER --out docs/results/demo.json
    python scripts/bench/demo.py --data FOLDER --out docs/results/demo.json --parts soak

A picture counts from the moment the program is started until signals of the recording stand on the screen: the
address was printed, the page opened, the canvas drawn and the frame after that begun. The browser runs already, as a
visitor's does. Needs the extra `dev` and a Chromium.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from playwright.sync_api import Browser, BrowserContext, CDPSession, Page, sync_playwright
from raw_record import keep, load_average

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
# Some dots of a canvas have the colour that only the first channel of a stream is drawn with.
DRAWN = """() => {
  const text = getComputedStyle(document.documentElement).getPropertyValue('--one').trim();
  const wanted = [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
  return [...document.querySelectorAll('.lane canvas')].some((c) => {
    if (!c.width) return false;
    const dots = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
    for (let at = 0; at < dots.length; at += 4) {
      if (dots[at + 3] > 60 && wanted.every((v, k) => Math.abs(dots[at + k] - v) < 12)) return true;
    }
    return false;
  });
}"""
NEWEST = "Number(document.getElementById('newest').dataset.window)"
PAINTED = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"
# From the key that moves the slider until the frame that shows its answer.
SLIDE = """async (step) => {
  const slider = document.getElementById('budget'), body = document.body;
  delete body.dataset.answered;
  const begin = performance.now();
  slider.value = Number(slider.value) + step;
  slider.dispatchEvent(new Event('input'));
  while (!body.dataset.answered && performance.now() - begin < 30000) await new Promise((r) => setTimeout(r, 1));
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  return (performance.now() - begin) / 1000;
}"""


class Running(NamedTuple):
    """A program that serves, and when it was started on the monotonic clock."""

    process: subprocess.Popen[str]
    address: str
    begin_s: float
    address_s: float


@contextmanager
def program(data: Path | None, runs: Path | None) -> Iterator[Running]:
    """`clisonix demo` until the block ends."""
    command = [sys.executable, "-m", "clisonix.cli", "demo"]
    command += [] if runs is None else [str(runs)]
    command += [] if data is None else ["--data", str(data)]
    environment = {**os.environ}
    environment.pop("CLISONIX_DATA", None)
    begin_s = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", process.stdout.readline())
            assert found is not None, "the program printed no address"
            yield Running(process, found[0], begin_s, time.monotonic() - begin_s)
        finally:
            process.terminate()


def until(page: Page, expression: str, limit_s: float = 240.0) -> None:
    """Asked from outside: the policy of the page forbids the browser to evaluate text by itself."""
    end = time.monotonic() + limit_s
    while not page.evaluate(expression):
        if time.monotonic() > end:
            raise TimeoutError(expression)
        time.sleep(0.02)


def first_picture(page: Page, address: str, limit_s: float = 240.0) -> None:
    """Opens the address and returns when signals are on the screen."""
    page.goto(address)
    if "token=" in address:
        page.wait_for_url("**/weave")
    until(page, DRAWN, limit_s)
    page.evaluate(PAINTED)


def picture(browser: Browser, data: Path | None, rounds: int) -> dict[str, Any]:
    """Seconds from the start of the program to the address, and to the first picture."""
    address_s, picture_s = [], []
    for _ in range(rounds):
        with program(data, None) as running:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            first_picture(page, running.address)
            picture_s.append(time.monotonic() - running.begin_s)
            address_s.append(running.address_s)
            page.close()
    return {"address_s": summary(address_s), "picture_s": summary(picture_s)}


def slider(browser: Browser, data: Path | None) -> dict[str, Any]:
    """Seconds to the first point of the frontier, then of each step of the slider over budgets that are made."""
    with program(data, None) as running:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(running.address)
        page.wait_for_url("**/weave")
        begin_s = time.monotonic()
        page.goto(base(running) + "shrink")
        until(page, "document.body.dataset.ready === 'true'")
        first_s = time.monotonic() - begin_s
        until(page, "document.getElementById('doing').textContent.startsWith('All budgets')", 900)
        all_s = time.monotonic() - begin_s
        page.evaluate(SLIDE, -20)
        answers = [page.evaluate(SLIDE, step) for step in [*[1] * 8, *[-1] * 8] * 3]
        model = page.locator("#tracker option:checked").inner_text()
        page.close()
    return {"model": model, "first_point_s": first_s, "all_points_s": all_s, "cached_s": summary(answers)}


def tabs(browser: Browser, data: Path | None, count: int, seconds: float = 10.0) -> dict[str, Any]:
    """Several pages at once: how long each waits for its picture, and whether all keep up with the signals."""
    with program(data, None) as running:
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        pages, waited = playing(context, running, count)
        hop_s = 1.0
        begin = [(page.evaluate(NEWEST), time.monotonic()) for page in pages]
        used_s = cpu_s(running.process.pid)
        time.sleep(seconds)
        used_s = cpu_s(running.process.pid) - used_s
        played = [
            (page.evaluate(NEWEST) - b) * hop_s / (time.monotonic() - at)
            for page, (b, at) in zip(pages, begin, strict=True)
        ]
        rss = rss_mib(running.process.pid)
        context.close()
    return {
        "tabs": count,
        "picture_s": waited,
        "signal_seconds_per_second": played,
        "processor_share": used_s / seconds,
        "rss_mib": rss,
    }


def soak(browser: Browser, data: Path | None, count: int, minutes: float) -> dict[str, Any]:
    """Several pages of Weave and one of Shrink that are used all the time: memory of the program and of each page.

    It counts from when all points of the frontier are made, or ten minutes after the start.
    """
    with program(data, None) as running:
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        weave, _ = playing(context, running, count)
        shrink = context.new_page()
        shrink.goto(base(running) + "shrink")
        until(shrink, "document.body.dataset.ready === 'true'")
        with suppress(TimeoutError):
            until(shrink, "document.getElementById('doing').textContent.startsWith('All budgets')", 600)
        pages = [*weave, shrink]
        sessions = [context.new_cdp_session(page) for page in pages]
        for session in sessions:
            session.send("Performance.enable")
        windows, begin_s = [page.evaluate(NEWEST) for page in weave], time.monotonic()
        at_s, rss, heaps, answers = [], [], [], []
        turn = 0
        while time.monotonic() - begin_s < 60 * minutes:
            # A budget up and one down, and the picture of one stream held and let go.
            answers += [shrink.evaluate(SLIDE, -1 if turn // 4 % 2 else 1)]
            weave[turn % count].evaluate("document.getElementById('pause').click()")
            time.sleep(5)
            weave[turn % count].evaluate("document.getElementById('pause').click()")
            for session in sessions:
                session.send("HeapProfiler.collectGarbage")
            at_s.append(round(time.monotonic() - begin_s, 1))
            rss.append(rss_mib(running.process.pid))
            heaps.append([heap_mib(session) for session in sessions])
            turn += 1
        lasted_s = time.monotonic() - begin_s
        played = [(page.evaluate(NEWEST) - first) / lasted_s for page, first in zip(weave, windows, strict=True)]
        context.close()
    return {
        "minutes": lasted_s / 60,
        "weave_pages": count,
        "rss_mib": {**change(at_s, rss), "all": rss},
        "heap_mib_of_pages": [change(at_s, [row[page] for row in heaps]) for page in range(len(pages))],
        "signal_seconds_per_second": played,
        "slider_s": summary(answers),
    }


def playing(context: BrowserContext, running: Running, count: int) -> tuple[list[Page], list[float]]:
    """Pages of Weave that show windows, opened one after the other, and how long each waited for its picture."""
    pages, waited = [], []
    for number in range(count):
        page = context.new_page()
        begin_s = time.monotonic()
        first_picture(page, running.address if number == 0 else base(running) + "weave")
        waited.append(time.monotonic() - begin_s)
        pages.append(page)
    for page in pages:
        until(page, "!!document.getElementById('newest').dataset.window")
    return pages, waited


def change(at_s: list[float], values: list[float]) -> dict[str, float]:
    """Medians of the first and the last quarter, the largest, and the median slope between any two, a minute."""
    quarter = max(1, len(values) // 4)
    slopes = [
        60 * (values[j] - values[i]) / (at_s[j] - at_s[i]) for j in range(len(values)) for i in range(j)
    ]  # fmt: skip
    return {
        "first_quarter": statistics.median(values[:quarter]),
        "last_quarter": statistics.median(values[-quarter:]),
        "largest": max(values),
        "a_minute": round(statistics.median(slopes), 4) if slopes else 0.0,
    }


def heap_mib(session: CDPSession) -> float:
    """What the scripts of a page hold, after its rubbish was collected."""
    metrics = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
    return round(float(metrics["JSHeapUsedSize"]) / 2**20, 3)


def base(running: Running) -> str:
    """The address without the token."""
    return running.address.partition("?")[0]


def rss_mib(pid: int) -> float:
    """Resident memory of the program."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return round(int(found[1]) / 1024, 1)


def cpu_s(pid: int) -> float:
    """Processor seconds the program used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def summary(values: list[float]) -> dict[str, Any]:
    """Median and the largest, with all of them."""
    rounded = [round(value, 4) for value in values]
    return {"median": statistics.median(rounded), "largest": max(rounded), "all": rounded}


def main() -> None:
    """Measure what was asked for, print it, and keep it where that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of recordings; without it signals are generated")
    parser.add_argument("--parts", default="picture,slider,tabs", help="of these and soak; may be empty")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the soak")
    parser.add_argument("--rounds", type=int, default=5, help="starts of the program for the first picture")
    parser.add_argument("--tabs", type=int, default=4)
    parser.add_argument("--out", type=Path, help="keep the results in this file")
    given = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        parser.error("there is no chromium on this machine")
    wanted = [part for part in given.parts.split(",") if part]
    load_before, results = load_average(), {}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        versions = {"chromium": browser.version, "playwright": importlib.metadata.version("playwright")}
        if "picture" in wanted:
            results["picture"] = picture(browser, given.data, given.rounds)
        if "slider" in wanted:
            results["slider"] = slider(browser, given.data)
        if "tabs" in wanted:
            results["tabs"] = tabs(browser, given.data, given.tabs)
        if "soak" in wanted:
            results["soak"] = soak(browser, given.data, given.tabs - 1, given.minutes)
        browser.close()
    for name, result in results.items():
        print(json.dumps({name: result}))
    if given.out is not None:
        keep(given.out, results, load_before, versions)


if __name__ == "__main__":
    main()
