"""Every block of Python and shell on the pages of docs/ is run as written, or stands here with the reason why not.

Blocks with prompts are doctests: tests/test_readme.py runs them. A block of YAML that begins with `# file: NAME` is
written to that file before the next block runs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if "```" in page.read_text()]
RUN = ["tutorial.md"]
"""Pages whose blocks are steps, run one after the other in a new folder."""
NOT_RUN = {
    # Pages made of fragments that need what is not on every machine; what they show is tested where it says.
    ("gpu.md", "python scripts/bench"): "needs a GPU",
    ("live.md", "clisonix sweep power"): "sets the power limits of a GPU; tests/meter runs it on a stand-in",
    ("recordings.md", "pip install"): "installs, and fetches from the network",
    ("recordings.md", "from clisonix.fabric import load, open_source"): "the file is the reader's; tests/fabric",
    ("recordings.md", "from clisonix.fabric import Loader"): "moves batches to a GPU; tests/fabric",
    ("recordings.md", "from clisonix.fabric.lane import"): "needs an LSL network; tests/fabric has one of its own",
}
FOLDERS_OF_OTHERS = ("results",)
"""Commands there measure for minutes to hours: they made the records beside them."""
FRAGMENTS = ("tide.md",)
"""Shows how the reader's own transport and training are called; tests/tide drives the same core."""


class Block(NamedTuple):
    language: str
    text: str
    reason: str


def blocks(page: Path) -> list[Block]:
    found = re.findall(
        r"(?:<!-- not run: (.+?) -->\n)?^( *)```(\w*)[^\n]*\n(.*?)^\2```", page.read_text(), re.DOTALL | re.MULTILINE
    )
    return [Block(language, text, reason) for reason, _, language, text in found]


def excused(page: Path, block: Block) -> bool:
    name = page.relative_to(ROOT / "docs")
    known = any(str(name) == p and block.text.startswith(begin) for p, begin in NOT_RUN)
    return bool(block.reason) or known or name.parts[0] in FOLDERS_OF_OTHERS or str(name) in FRAGMENTS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT / "docs")))
def test_every_block_is_run_or_excused(page: Path) -> None:
    if str(page.relative_to(ROOT / "docs")) in RUN:
        return
    for block in blocks(page):
        if block.language in ("python", "bash") and ">>>" not in block.text:
            assert excused(page, block), f"this block is neither run nor has it a reason:\n{block.text}"


def test_excuses_are_of_blocks_that_exist() -> None:
    for name, begin in NOT_RUN:
        assert any(block.text.startswith(begin) for block in blocks(ROOT / "docs" / name)), (name, begin)


@pytest.mark.parametrize("name", RUN)
def test_steps_of_a_page_run_in_order(name: str, data_root: Path, tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash on this machine")
    scripts = tmp_path / "bin"
    scripts.mkdir()
    command = scripts / "clisonix"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m clisonix.cli "$@"\n')
    command.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "CLISONIX_DATA": str(data_root),
        "OMP_NUM_THREADS": "2",
    }
    work = tmp_path / "work"
    work.mkdir()
    ran = 0
    for block in blocks(ROOT / "docs" / name):
        if block.language == "yaml":
            file = re.match(r"# file: (\S+)\n", block.text)
            assert file is not None
            assert yaml.safe_load(block.text)
            (work / file[1]).write_text(block.text)
        elif block.language in ("bash", "python") and not block.reason:
            shell = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
            done = subprocess.run([*shell, block.text], cwd=work, env=environment, capture_output=True, text=True)
            # `doctor` may find something to complain about on a machine that is otherwise fine.
            allowed = (0, 1) if "clisonix doctor" in block.text else (0,)
            assert done.returncode in allowed, f"{block.text}\n{done.stdout}\n{done.stderr}"
            ran += 1
    assert ran > 4
    assert (work / "runs" / "small" / "report.html").is_file()
    assert (work / "runs" / "walking" / "compressed.safetensors").is_file()
