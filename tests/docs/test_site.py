"""The documentation site builds strictly, without a network, and its pages ask nobody for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers.python"):
        pytest.importorskip(module, reason="the site is built with the extra docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    loads = re.compile(
        r"<(?:script|img|iframe|source)[^>]*\bsrc=\"?(?:https?:)?//|<link(?![^>]*rel=\"?canonical)[^>]*href=\"?(?:https?:)?//"
    )
    for page in pages:
        assert not loads.search(page.read_text()), page


def test_links_within_the_site_lead_somewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        if page.name == "404.html":
            continue
        for link in set(re.findall(r"<a[^>]*href=\"?([^\"\s>]+)", page.read_text())):
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:|//", target):
                continue
            found = (page.parent / target) if target else page
            assert found.exists(), f"{page.relative_to(site)} links to {link}"
            if anchor and found.suffix == ".html":
                assert re.search(rf"id=\"?{re.escape(anchor)}[\"\s>]", found.read_text()), (
                    f"{page.name} links to {link}"
                )


def test_the_reference_holds_the_public_names(site: Path) -> None:
    text = (site / "api" / "fabric.html").read_text()
    assert "clisonix.fabric.SignalFabric" in text
    assert "batch_size" in text
