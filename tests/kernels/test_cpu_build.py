"""Building the C++ kernels: once, by whoever comes first, and never in the way of plain torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clisonix.doctor import diagnose
from clisonix.errors import ClisonixError
from clisonix.kernels import cpu
from clisonix.kernels.binary import binary_matmul, pack_signs

LIBRARY = cpu.load("packed")
needs_compiler = pytest.mark.skipif(LIBRARY.missing is not None, reason=f"no C++ kernels: {LIBRARY.missing}")
ANSWER = 'extern "C" int answer() { return {}; }\n'
TESTS = Path(__file__).parents[1]


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of sources, nothing loaded yet, and an empty folder for extensions."""
    folder = tmp_path / "sources"
    folder.mkdir()
    monkeypatch.setattr(cpu, "SOURCES", folder)
    monkeypatch.setattr(cpu, "_loaded", {})
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    return folder


def without_compiler(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "CXX": "no-such-compiler", "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}


def test_importing_builds_and_loads_nothing() -> None:
    code = (
        "import clisonix.liam, sys\nfrom clisonix.kernels import cpu\nprint(cpu._loaded, 'setuptools' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "{} False"


@needs_compiler
def test_processes_that_build_at_the_same_time_share_one_whole_library(sources: Path, tmp_path: Path) -> None:
    (sources / "tiny.cpp").write_text('#include "number.h"\n' + ANSWER.replace("{}", "NUMBER"))
    (sources / "number.h").write_text("#define NUMBER 42\n")
    code = (
        "import sys; from pathlib import Path; from clisonix.kernels import cpu\n"
        "cpu.SOURCES = Path(sys.argv[1]); print(cpu.library('tiny').answer(), cpu.load('tiny').path)"
    )
    command = [sys.executable, "-c", code, str(sources)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {process.communicate(timeout=240)[0] for process in running}
    (kept,) = (tmp_path / "extensions").glob("*.so")
    assert answers == {f"42 {kept}\n"}
    assert {file.suffix for file in kept.parent.iterdir()} == {".so", ".lock"}
    # The next process only loads it, also where there is no compiler.
    alone = subprocess.run(command, env=without_compiler(tmp_path), capture_output=True, text=True, check=True)
    assert alone.stdout == f"42 {kept}\n"
    (sources / "number.h").write_text("#define NUMBER 43\n")
    assert cpu._key([sources / "tiny.cpp"]) not in kept.name


@needs_compiler
def test_a_compiler_that_fails_is_asked_once_and_its_first_error_kept(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sources / "tiny.cpp").write_text("#error the wrong kind of snow\n")
    missing = cpu.load("tiny").missing
    assert missing is not None
    assert "the wrong kind of snow" in missing
    assert "to try again" in missing
    assert cpu.library("tiny") is None
    monkeypatch.setattr(cpu, "_loaded", {})
    monkeypatch.setattr("torch.utils.cpp_extension.load", None)
    assert cpu.load("tiny").missing == missing
    (failed,) = (tmp_path / "extensions").glob("*.failed")
    assert str(failed) in missing


@pytest.mark.parametrize("why", ["compiler", "ninja", "folder"])
def test_what_is_missing_is_named(why: str, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sources / "tiny.cpp").write_text(ANSWER.replace("{}", "1"))
    (sources / "packed.cpp").write_text(ANSWER.replace("{}", "1"))
    if why == "compiler":
        monkeypatch.setenv("CXX", "no-such-compiler")
        expected = "no C\\+\\+ compiler `no-such-compiler`"
    elif why == "ninja":
        monkeypatch.setenv("CXX", sys.executable)
        monkeypatch.setattr("torch.utils.cpp_extension.is_ninja_available", lambda: False)
        expected = "no ninja"
    else:
        monkeypatch.setenv("CXX", sys.executable)
        monkeypatch.setattr("torch.utils.cpp_extension.is_ninja_available", lambda: True)
        (tmp_path / "extensions").write_text("a file where the folder should be")
        expected = "could not be loaded"
    with pytest.raises(ClisonixError, match=expected):
        binary_matmul(torch.ones(3), pack_signs(torch.ones(2, 3)), torch.ones(2), 3, backend="cpu")
    (check,) = (c for c in diagnose(None, None) if c.what == "C++ kernels packed")
    assert check.ok is None
    assert check.found.startswith("plain torch instead: ")


def test_without_a_compiler_everything_runs_in_plain_torch(tmp_path: Path) -> None:
    """In a process of its own: once loaded, kernels stay."""
    laws = "change_of_dtype or autocast or pass_the_operator_checks"
    forms = "binary or integer or ternary or sign_products"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", f"({laws}) and ({forms})"]
    files = [str(TESTS / "liam" / "test_laws.py"), str(TESTS / "kernels" / "test_packed_kernels.py")]
    result = subprocess.run(
        [*command, *files], env=without_compiler(tmp_path), capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert not (tmp_path / "extensions").exists()


@needs_compiler
def test_the_doctor_says_where_the_kernels_are() -> None:
    (check,) = (c for c in diagnose(None, None) if c.what == "C++ kernels packed")
    assert check.ok
    assert check.found == f"in {LIBRARY.path}"
