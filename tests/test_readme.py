"""What the README and the docs show works as written."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
import torch
import typer.main
import yaml
from pydantic import TypeAdapter

from clisonix.cli import app
from clisonix.train.config import RunConfig
from clisonix.train.data_config import DataConfig

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_examples_run(page: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    # A fence would otherwise be read as expected output.
    text = re.sub(r"^ *```.*$", "", page.read_text(), flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(text, {"tmp_path": tmp_path}, page.name, str(page), 0)
    report: list[str] = []
    outcome = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=report.append)
    assert outcome.failed == 0, "".join(report)
    if page == ROOT / "README.md":
        assert outcome.attempted > 15


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text()):
        if "://" in target:
            continue
        found = page.parent / target if target else page
        assert found.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w]+", "-", head.lower()).strip("-") for head in heads}, anchor


def test_commands_that_are_shown_exist() -> None:
    group = typer.main.get_command(app)
    shown = {
        line.split()[1]
        for page in PAGES
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
        for line in block.splitlines()
        if line.startswith("clisonix ")
    }
    assert shown
    assert shown <= set(group.commands)  # type: ignore[attr-defined]


def test_configs_that_are_shown_are_valid() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/recordings.md").read_text(), re.DOTALL)
    assert blocks
    fields = DataConfig.model_fields
    for content in map(yaml.safe_load, blocks):
        if "name" in content:
            RunConfig.model_validate(content)
        for key in content.keys() & fields.keys():  # a part of `data:`
            TypeAdapter(fields[key].annotation).validate_python(content[key])
        assert "name" in content or content.keys() <= fields.keys()
