from __future__ import annotations

import pytest
import torch
from torch import nn

from clisonix.compress.report import Cost, inference_costs, pay_back
from clisonix.errors import ClisonixError
from clisonix.meter import Meter


def test_joules_spent_over_joules_saved_rounded_up() -> None:
    found = pay_back(Cost(60, 400.0, "counter"), Cost(0.01, 0.5, "counter"), Cost(0.01, 0.2, "counter"))
    assert (found.unit, found.inferences, found.reason) == ("J", 1334, None)
    assert str(found) == (
        "compression took 400 J, one inference saves 300 mJ: paid back after 1,334 inferences (counter)"
    )


def test_without_joules_it_counts_seconds_and_says_why() -> None:
    found = pay_back(Cost(60, 400.0, "counter"), Cost(0.01, None, "no sensor"), Cost(0.004, 0.2, "counter"))
    assert (found.unit, found.inferences) == ("s", 10_000)
    assert "no sensor" in found.how


@pytest.mark.parametrize("after", [0.5, 0.7])
def test_nothing_saved_is_none_with_a_reason(after: float) -> None:
    found = pay_back(Cost(60, 400.0, "counter"), Cost(0.01, 0.5, "counter"), Cost(0.01, after, "counter"))
    assert found.inferences is None
    assert found.reason is not None
    assert "nothing is saved" in str(found)


def test_what_is_no_cost_is_refused() -> None:
    with pytest.raises(ClisonixError, match="finite and not negative"):
        pay_back(Cost(float("nan")), Cost(1.0), Cost(0.5))


def test_costs_of_parts_add_up_and_stay_unknown_where_one_is() -> None:
    known = Cost(1.0, 2.0, "counter") + Cost(3.0, 4.0, "counter")
    assert known == Cost(4.0, 6.0, "counter")
    assert (known + Cost(1.0, None, "no sensor")) == Cost(5.0, None, "no sensor")


def test_the_cost_of_a_window_and_of_an_inference_come_from_the_meter() -> None:
    wide, narrow = nn.Linear(1024, 2048), nn.Linear(16, 16)
    models = nn.ModuleList([nn.Sequential(wide, nn.Linear(2048, 16)), nn.Sequential(nn.Linear(1024, 1))])
    with Meter() as meter:
        window = meter.window("compress")
        with pytest.raises(ClisonixError, match="still open"):
            Cost.of(window)
        with window:
            narrow(torch.ones(1, 16))
        dense, small = inference_costs(list(models), torch.ones(8, 1024), meter=meter, rounds=3, seconds=0.02)
        spent = Cost.of(window)
    assert spent.seconds == window.seconds
    assert dense.seconds > small.seconds > 0
    assert "took" in str(pay_back(spent, dense, small))
