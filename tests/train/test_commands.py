"""What the commands print about real runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_runs import Clisonix

from clisonix.meter.recording.record import read_record


def test_a_run_says_what_it_gave_and_how_energy_was_obtained(finished_run: Path) -> None:
    record = read_record(finished_run)
    assert record.quality is not None
    assert record.quality["n"] == record.data["test_windows"]
    assert record.total("train").joules is not None
    phases = {name for name in record.energy if name.startswith("train/")}
    assert phases == {"train/dense", "train/compress", "train/compressed"}
    parts = [record.total(name).joules or 0.0 for name in sorted(phases)]
    assert sum(parts) == pytest.approx(record.total("train").joules or 0.0, rel=1e-9)
    assert record.size["bytes"] == (finished_run / "model.safetensors").stat().st_size
    assert record.carbon is not None
    assert record.carbon["grams"] is None
    assert "no place given" in record.carbon["reason"]


def test_compare_prints_every_figure_with_its_interval(
    dense_run: Path, finished_run: Path, clisonix: Clisonix
) -> None:
    done = clisonix("compare", dense_run, finished_run, "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["metric"]: row for row in json.loads(done.stdout)["rows"]}
    assert set(rows) == {"time", "energy", "size", "quality"}
    for row in rows.values():
        assert row["a"] is not None
        assert row["b"] is not None
        assert row["ratio"] is not None or row["difference"] is not None
        assert row["interval"]
    size = rows["size"]
    assert size["ratio"] == pytest.approx(size["b"] / size["a"])
    assert size["ratio"] <= 0.6
    assert size["ratio_low"] == size["ratio_high"]
    assert "modelled" in rows["energy"]["how_a"]
    assert rows["time"]["ratio_low"] is None or rows["time"]["ratio_low"] <= rows["time"]["ratio"]
    text = clisonix("compare", dense_run, finished_run)
    assert "modelled from CPU time" in text.stdout


def test_report_in_three_forms(finished_run: Path, tmp_path: Path, clisonix: Clisonix) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    (folder / "report.html").unlink()
    assert clisonix("report", folder).returncode == 0
    page = (folder / "report.html").read_text()
    assert "modelled" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "accuracy" in clisonix("report", folder, "--md").stdout
    assert json.loads(clisonix("report", folder, "--json").stdout)["name"] == "quickstart"
    assert clisonix("report", folder, "--json", "--md").returncode == 2
    assert clisonix("report", tmp_path).returncode == 2


@pytest.mark.parametrize(
    "name", ["model.safetensors", "predictions.npz", "trace-0.npz", "config.json", "record.json"]
)
def test_verify_finds_a_changed_byte(finished_run: Path, tmp_path: Path, clisonix: Clisonix, name: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    assert clisonix("verify", folder).returncode == 0
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 4
    (folder / name).write_bytes(content)
    done = clisonix("verify", folder)
    assert done.returncode == 1
    assert "FAIL" in done.stdout


def test_compress_a_finished_dense_run(
    dense_run: Path, finished_run: Path, tmp_path: Path, clisonix: Clisonix
) -> None:
    target = tmp_path / "small.safetensors"
    done = clisonix("compress", dense_run, "--budget", "0.7", "--out", target, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["bytes"] == target.stat().st_size <= 0.7 * found["dense_bytes"]
    record = read_record(dense_run)
    assert record.quality is not None
    assert found["dense_accuracy"] == pytest.approx(record.quality["value"])
    assert json.loads(Path(found["plan"]).read_text())["schema"].startswith("clisonix.plan/")
    for arguments, sentence in (
        ((finished_run,), "is compressed already"),
        ((dense_run, "--budget", "0.01"), "budget"),
        ((tmp_path,), "is no run folder"),
    ):
        refused = clisonix("compress", *arguments, "--out", tmp_path / "never.safetensors")
        assert refused.returncode == 2
        assert sentence in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "never.safetensors").exists()


def test_doctor_names_what_is_there_and_what_is_not(clisonix: Clisonix, tmp_path: Path) -> None:
    done = clisonix("doctor", "--json", "--data", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    checks = {check["what"]: check for check in json.loads(done.stdout)}
    assert {"torch", "GPU", "Triton kernels", "carbon factors", "embedded recordings", "data root"} <= checks.keys()
    assert any(what.startswith("energy") for what in checks)
    assert clisonix("doctor", "--data", tmp_path / "none").returncode == 1


def test_help_names_every_command(clisonix: Clisonix) -> None:
    done = clisonix("--help")
    assert done.returncode == 0
    for name in ("train", "compress", "report", "compare", "verify", "doctor", "demo"):
        assert name in done.stdout
    assert clisonix("trian").returncode == 2
