"""Runs with figures that no other code would come up with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clisonix.meter.energy import Energy
from clisonix.meter.recording.record import Record, write_record

TOKEN = "a-token-of-some-length"


def make_run(folder: Path, **changes: Any) -> Record:
    """Write a run's record; `changes` replace fields of it."""
    energy = Energy(1234.5, 1200.25, 1300.75, "rapl-counter", "CPU package", "cpu:0", detail="counted by RAPL")
    fields: dict[str, Any] = {
        "name": folder.name,
        "created_utc": "2026-01-02T03:04:05+00:00",
        "finished_utc": "2026-01-02T03:05:05+00:00",
        "task": "sleep stages",
        "seed": 7,
        "quality": {
            "metric": "accuracy",
            "value": 0.8125,
            "low": 0.79,
            "high": 0.83,
            "n": 160,
            "higher_is_better": True,
        },
        "time": {"train_s": 61.75},
        "size": {"bytes": 40960, "parameters": 10240, "file": "model.safetensors"},
        "energy": {"train": {"total": energy.to_json(), "devices": [energy.to_json()]}},
        "hardware": {"cpu": "a processor", "cores": 2, "gpus": []},
    }
    record = Record(**{**fields, **changes})
    write_record(folder, record)
    return record
