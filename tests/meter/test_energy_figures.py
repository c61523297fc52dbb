from __future__ import annotations

import pytest

from clisonix.errors import ClisonixError
from clisonix.meter import Energy, best

GPU = Energy(
    100.0,
    90.0,
    120.0,
    "nvml-counter",
    "GPU board",
    "gpu:0",
    refresh_s=0.1,
    coverage=0.9,
    detail="measured by the NVML energy counter",
)
CPU = Energy(10.0, 4.0, 28.0, "cpu-time-model", "CPU", "cpu", detail="modelled from CPU time")
LOST = Energy.unknown("GPU is lost", source="nvml-counter", scope="GPU board", device="gpu:1")


def test_a_total_adds_figures_and_bounds_and_joins_sources() -> None:
    total = Energy.total([GPU, CPU])
    assert (total.joules, total.low, total.high) == (110.0, 94.0, 148.0)
    assert total.source == "nvml-counter+cpu-time-model"
    assert total.device == "gpu:0+cpu"
    assert total.reason is None


def test_a_total_of_totals_is_the_total() -> None:
    other = Energy(1.0, 1.0, 1.0, "rapl-counter", "DRAM", "dram:0")
    assert Energy.total([Energy.total([GPU, CPU]), other]) == Energy.total([GPU, CPU, other])


def test_a_missing_part_is_named_and_not_counted_as_zero() -> None:
    total = Energy.total([GPU, LOST])
    assert total.joules == 100.0
    assert total.reason == "without gpu:1: GPU is lost"
    assert "incomplete: without gpu:1" in total.how()


@pytest.mark.parametrize("parts", [[], [LOST]])
def test_a_total_without_a_known_part_is_unknown_with_a_reason(parts: list[Energy]) -> None:
    total = Energy.total(parts)
    assert total.joules is None
    assert total.low is None
    assert total.reason
    assert total.how().startswith("unknown: ")


def test_how_names_measurement_and_model() -> None:
    assert GPU.how() == "measured by the NVML energy counter (refresh 0.10 s)"
    assert (
        Energy.total([GPU, CPU]).how()
        == "measured by the NVML energy counter (refresh 0.10 s); modelled from CPU time"
    )


@pytest.mark.parametrize("energy", [GPU, CPU, LOST, Energy.total([GPU, LOST])])
def test_json_round_trip(energy: Energy) -> None:
    assert Energy.from_json(energy.to_json()) == energy


def test_json_with_a_wrong_field_is_refused() -> None:
    with pytest.raises(ClisonixError, match="fields"):
        Energy.from_json({**GPU.to_json(), "watts": 3})
    with pytest.raises(ClisonixError, match="fields"):
        Energy.from_json({"joules": 1.0})


def test_a_measured_device_is_not_modelled_on_top() -> None:
    rapl = Energy(50.0, 50.0, 50.0, "rapl-counter", "CPU package", "cpu:0")
    assert best([rapl, CPU, GPU]) == [rapl, GPU]


def test_a_model_stands_in_for_a_lost_counter_of_the_same_device() -> None:
    rapl = Energy.unknown("permission denied", source="rapl-counter", scope="CPU package", device="cpu:0")
    assert best([rapl, CPU]) == [CPU]
    assert best([LOST, CPU]) == [LOST, CPU]
