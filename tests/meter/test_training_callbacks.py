"""What the callbacks for other trainers share: windows, figures, folders, and processes that make one run."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clisonix import ClisonixError
from clisonix.meter import CpuTimeModel, Meter, merge, verify
from clisonix.meter.integrations.session import PARENT_COUNTS, Session, gpus_in_use

POWER_W = 100.0
RUN: dict[str, Any] = {
    "resume": False,
    "seed": 3,
    "config": {"lr": float("inf"), "where": Path("x")},
    "packages": ["torch"],
}


class SteadyGpu:
    """A GPU that draws the same power all the time, read exactly."""

    name, source, scope, device = "nvml:0", "nvml-counter", "GPU board", "gpu:0"
    refresh_s, exact_edges, max_power_w = None, True, 700.0

    def __init__(self, uuid: str = "GPU-1") -> None:
        self.parameters = {"how": "measured by a counter", "uuid": uuid, "model": "test GPU"}

    def read(self) -> tuple[float, float]:
        now_s = time.perf_counter()
        return now_s, POWER_W * now_s


def train(session: Session, rank: int = 0, world: int = 1) -> None:
    session.begin(rank=rank, world=world, **RUN)
    for epoch in (1, 2):
        session.switch(session.epoch(epoch))
        time.sleep(0.05)
        session.switch("evaluate")
        time.sleep(0.02)
    session.switch(None)


def test_figures_are_of_the_training_alone_and_power_is_power(tmp_path: Path) -> None:
    with Meter([SteadyGpu()], period_s=0.01) as meter:
        time.sleep(0.3)
        session = Session(tmp_path / "run", meter, "FRA", None, "fit")
        assert session.figures() == {}
        train(session)
        found = session.figures()
        assert found["energy_j"] == pytest.approx(POWER_W * 0.14, rel=0.4)
        assert found["energy_low_j"] <= found["energy_j"] <= found["energy_high_j"]
        assert found["power_w"] == pytest.approx(POWER_W, rel=1e-6)
        assert session.how.startswith("measured by a counter")
        session.end({"parameters": 5})
        assert meter.running
    record = session.record
    assert record is not None
    assert list(record.energy) == ["run", "train", "evaluate", "train/fit"]
    parts = record.time["train_s"] + record.time["evaluate_s"]
    assert parts == pytest.approx(record.time["run_s"], rel=0.2)
    assert record.seed == 3
    assert record.config == {"lr": "inf", "where": "x"}
    assert record.size == {"parameters": 5}
    assert all(finding.ok for finding in verify(tmp_path / "run"))


def test_energy_that_is_unknown_is_left_out_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with Meter([]) as meter, caplog.at_level(logging.WARNING):
        session = Session(None, meter, None, None, "fit")
        session.begin(rank=0, world=1, **RUN)
        assert session.figures() == {}
        assert session.figures() == {}
        assert session.how.startswith("unknown: ")
        session.end()
    assert [record.message for record in caplog.records if "energy is not logged" in record.message] == [
        f"energy is not logged: {session.how.removeprefix('unknown: ')}"
    ]


def test_a_gpu_that_two_processes_share_is_counted_once(tmp_path: Path) -> None:
    # The pauses make it impossible for both to see the very same moments.
    for rank in range(2):
        with Meter([SteadyGpu()], period_s=0.01) as meter:
            session = Session(tmp_path / "job", meter, None, None, "fit")
            train(session, rank, 2)
            session.end()
        assert session.record is not None
        assert any("One of 2 processes" in note for note in session.record.notes)
        assert session.record.attempts[0]["rank"] == rank
    merged = merge([tmp_path / "job/rank-0", tmp_path / "job/rank-1"], tmp_path / "all")
    assert merged.hardware["gpus"] == ["test GPU"]
    assert len(merged.devices("train")) == 1
    assert merged.total("train").joules == pytest.approx(POWER_W * merged.time["train_s"], rel=1e-6)
    assert all(finding.ok for finding in verify(tmp_path / "all"))


def test_only_the_first_process_meters_where_there_is_no_folder() -> None:
    session = Session(None, None, None, "", "fit")
    session.begin(rank=1, world=2, **RUN)
    assert not session.active
    session.switch("evaluate")
    assert session.figures() == {}
    session.end()
    assert session.record is None


def test_cpu_time_that_the_starting_process_counts_is_not_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i, sensors in enumerate(([SteadyGpu(), CpuTimeModel()], [CpuTimeModel()])):
        monkeypatch.setattr(sys.modules[Session.__module__], "detect", lambda visible, found=sensors: (found, []))
        for rank in range(2):
            session = Session(tmp_path / f"job-{i}", None, None, "", "fit")
            session.begin(rank=rank, world=2, parent_counts=rank > 0, **RUN)
            session.switch(session.epoch(1))
            session.end()
        assert session.record is not None
        assert PARENT_COUNTS in session.record.notes
        merged = merge([tmp_path / f"job-{i}/rank-{rank}" for rank in range(2)], tmp_path / f"all-{i}")
        sources = [one.source for one in merged.devices("train")]
        assert sources.count("cpu-time-model") == 1
        assert merged.total("train").reason is None
        assert merged.total("train").joules == pytest.approx(sum(d.joules or 0.0 for d in merged.devices("train")))


def test_which_processes_lightning_starts_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightning", exc_type=ImportError)
    from clisonix.meter.integrations.lightning import _started_by_another

    own = type("_SubprocessScriptLauncher", (), {})()
    same, other = (lambda path: "python"), (lambda path: "python" if "self" in path else "bash")
    for local_rank, launcher, readlink, expected in (
        (1, own, same, True), (0, own, same, False), (1, None, same, False), (1, own, other, False),
    ):  # fmt: skip
        monkeypatch.setattr("os.readlink", readlink)
        trainer = SimpleNamespace(local_rank=local_rank, strategy=SimpleNamespace(launcher=launcher))
        assert _started_by_another(trainer) is expected
    monkeypatch.undo()


def test_a_resumed_training_adds_up_and_a_new_one_does_not_mix_in(tmp_path: Path) -> None:
    with Meter([SteadyGpu()], period_s=0.01) as meter:
        first = Session(tmp_path / "run", meter, None, None, "fit")
        first.begin(rank=0, world=1, **RUN)
        first.switch(first.epoch(1))
        time.sleep(0.05)
        first.abort(KeyboardInterrupt())
        assert not (tmp_path / "run/record.json").exists()
        second = Session(tmp_path / "run", meter, None, None, "fit")
        with pytest.raises(ClisonixError, match="holds a run already"):
            second.begin(rank=0, world=1, **RUN)
        assert not second.active
    with Meter([SteadyGpu()], period_s=0.01) as meter:
        third = Session(tmp_path / "run", meter, None, None, "fit")
        third.begin(rank=0, world=1, **{**RUN, "resume": True})
        third.switch(third.epoch(2))
        third.end()
    assert third.record is not None
    assert [attempt["ended_cleanly"] for attempt in third.record.attempts] == [False, True]
    assert third.record.time["train_s"] > 0.05
    assert all(finding.ok for finding in verify(tmp_path / "run"))
    with Meter([SteadyGpu()], period_s=0.01) as meter:
        late = Session(tmp_path / "late", meter, None, None, "fit")
        late.begin(rank=0, world=1, **{**RUN, "resume": True})
        late.end()
    assert late.record is not None
    assert any("resumed from a checkpoint" in note for note in late.record.notes)


def test_bad_input_is_refused_before_training(tmp_path: Path) -> None:
    for phase in ("", "a/b"):
        with pytest.raises(ClisonixError, match="phase"):
            Session(None, None, None, None, phase)
    with pytest.raises(ClisonixError, match="does not run"):
        Session(None, Meter([]), None, None, "fit").begin(rank=0, world=1, **RUN)
    with pytest.raises(ClisonixError, match="'FRANCE'"):
        Session(tmp_path / "run", None, "FRANCE", "", "fit").begin(rank=0, world=1, **RUN)
    assert not (tmp_path / "run").exists()


def test_the_gpus_of_this_process_are_those_where_it_holds_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {0: 0, 1: 4096, 2: 512}
    cuda = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        device_count=lambda: 3,
        memory_reserved=held.__getitem__,
        current_device=lambda: 2,
        get_device_properties=lambda i: SimpleNamespace(uuid=f"0000-{i}"),
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert gpus_in_use() == "GPU-0000-1,GPU-0000-2"
    assert gpus_in_use(all_visible=True) == "GPU-0000-0,GPU-0000-1,GPU-0000-2"
    held.update(dict.fromkeys(held, 0))
    assert gpus_in_use() == "GPU-0000-2"
    cuda.is_initialized = lambda: False
    assert gpus_in_use() == ""


@pytest.mark.parametrize(
    ("module", "missing"),
    [("transformers", ["transformers"]), ("lightning", ["lightning", "lightning.pytorch", "pytorch_lightning"])],
)
def test_a_package_that_is_missing_is_named(module: str, missing: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    full = f"clisonix.meter.integrations.{module}"
    monkeypatch.delitem(sys.modules, full, raising=False)
    with pytest.raises(ClisonixError, match=f"pip install {module}"):
        importlib.import_module(full)


def test_the_trainers_are_imported_only_when_asked_for() -> None:
    program = (
        "import sys, clisonix.meter, clisonix.meter.integrations.session\n"
        "assert not {'transformers', 'lightning', 'pytorch_lightning', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
