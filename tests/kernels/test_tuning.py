"""The table of measured choices: made once, kept, and never in the way."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from clisonix.kernels.tuning import FILE, Choices, cache_folder, choose, fastest

CPU = torch.device("cpu")


def sleeper(seconds: float, calls: list[float]) -> object:
    def work() -> None:
        calls.append(seconds)
        time.sleep(seconds)

    return work


def test_the_fastest_is_measured_once_and_found_by_the_next_process(tmp_path: Path) -> None:
    calls: list[float] = []
    ways = {"slow": sleeper(0.03, calls), "fast": sleeper(0.001, calls)}
    first = Choices(tmp_path / "cache")
    assert choose("some product", ways, CPU, first) == "fast"
    measured = len(calls)
    assert choose("some product", ways, CPU, first) == "fast"
    assert choose("some product", ways, CPU, Choices(tmp_path / "cache")) == "fast"
    assert len(calls) == measured
    assert choose("another", ways, CPU, first) == "fast"
    assert len(calls) > measured


def test_the_first_is_preferred_unless_another_is_clearly_faster() -> None:
    assert fastest({"first": lambda: time.sleep(0.02), "second": lambda: time.sleep(0.0195)}, CPU) == "first"


def test_a_way_that_fails_is_out() -> None:
    def fail() -> None:
        raise RuntimeError("no memory")

    assert fastest({"broken": fail, "slow": lambda: time.sleep(0.001)}, CPU) == "slow"
    assert fastest({"broken": fail, "broken too": fail}, CPU) == "broken"


def test_nothing_is_measured_or_looked_up_where_results_must_be_the_same_everywhere(tmp_path: Path) -> None:
    calls: list[float] = []
    ways = {"first": sleeper(0.01, calls), "fast": sleeper(0.0, calls)}
    choices = Choices(tmp_path)
    torch.use_deterministic_algorithms(True)
    try:
        assert choose("x", ways, CPU, choices) == "first"
    finally:
        torch.use_deterministic_algorithms(False)
    assert choose("x", {"only": sleeper(0.0, calls)}, CPU, choices) == "only"
    assert not calls
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"key": 3}', "\x00"])
def test_a_damaged_file_is_ignored_and_replaced(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content)
    choices = Choices(tmp_path)
    assert choices.get("key") is None
    choices.put("key", "own")
    assert json.loads((tmp_path / FILE).read_text())["key"] == "own"


def test_a_choice_that_is_no_longer_there_is_made_again(tmp_path: Path) -> None:
    choices = Choices(tmp_path)
    ways = {"a": lambda: time.sleep(0.001), "b": lambda: time.sleep(0.02)}
    choose("x", ways, CPU, choices)
    (key,) = json.loads((tmp_path / FILE).read_text())
    choices.put(key, "gone")
    assert choose("x", ways, CPU, choices) == "a"


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for choices in (Choices(tmp_path / "file"), Choices(None)):
        choices.put("key", "own")
        assert choices.get("key") == "own"


def test_processes_that_measure_at_once_keep_each_others_choices(tmp_path: Path) -> None:
    one, other = Choices(tmp_path), Choices(tmp_path)
    assert one.get("a") is other.get("b") is None
    one.put("a", "own")
    other.put("b", "torch")
    assert Choices(tmp_path).get("a") == "own"
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_the_folder_follows_the_customs_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path("/home/someone")
    monkeypatch.setattr(Path, "home", lambda: home)
    assert cache_folder({}, "linux") == home / ".cache" / "clisonix"
    assert cache_folder({"XDG_CACHE_HOME": "/scratch"}, "linux") == Path("/scratch/clisonix")
    assert cache_folder({"XDG_CACHE_HOME": "relative"}, "linux") == home / ".cache" / "clisonix"
    assert cache_folder({}, "darwin") == home / "Library/Caches" / "clisonix"
    assert cache_folder({"LOCALAPPDATA": "/local"}, "win32") == Path("/local/clisonix/cache")

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder({}, "linux") is None
