"""What holds between real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
Notes = list[dict[str, Any]]


def same(notes: Notes, scenario: str, key: str) -> Any:
    """The value all nodes noted; fails when they differ."""
    values = [node[scenario][key] for node in notes]
    assert values[0] == values[1] == values[2]
    return values[0]


def test_all_nodes_take_over_rank_0_at_joining(notes: Notes) -> None:
    assert same(notes, "plain", "adopted")
    assert same(notes, "plain", "code") == [0, 0, 0]


def test_all_nodes_are_bitwise_equal_after_each_sync_and_differ_between(notes: Notes) -> None:
    prints = same(notes, "plain", "prints")
    assert len(set(prints)) == 3
    assert len(set(same(notes, "plain", "digests"))) == 3
    assert same(notes, "plain", "syncs") == [[2, 1], [4, 2], [6, 3]]
    assert same(notes, "plain", "healed") == [{}, {}, {}]
    assert len({node["plain"]["between"] for node in notes}) == 3


def test_joining_leaves_a_group_it_did_not_make(notes: Notes) -> None:
    assert same(notes, "plain", "group_kept") is True


def test_bytes_sent_are_the_payload_times_the_receivers(notes: Notes) -> None:
    trained = 4 * (6 * 5 + 5 + 5 + 5 + 5 * 2 + 2) + 2 * 7
    averaged = 4 * (5 + 5)
    complaint, digests = 512, 2 * 32
    copied = 8 + 3
    everyone = trained + averaged + complaint + digests
    expected = [2 * (everyone + copied), 2 * everyone, 2 * everyone]
    assert [node["plain"]["bytes_sent"] for node in notes] == [[each] * 3 for each in expected]


@pytest.mark.parametrize(
    ("scenario", "undisturbed", "rank", "fragment"),
    [
        ("flipped_momentum", "plain", 1, "momentum/0.weight"),
        ("flipped_first_rank", "plain", 0, "outer/1.bias"),
        ("averaging_flip", "averaging_plain", 2, "outer/2.weight"),
    ],
)
def test_a_flipped_bit_is_named_and_healed_as_if_it_had_never_been(
    notes: Notes, scenario: str, undisturbed: str, rank: int, fragment: str
) -> None:
    assert same(notes, scenario, "healed") == [{}, {str(rank): fragment}, {}]
    assert same(notes, scenario, "digests") == same(notes, undisturbed, "digests")
    assert same(notes, scenario, "prints") == same(notes, undisturbed, "prints")


def test_averaging_every_step_is_the_mean_of_the_nodes(notes: Notes) -> None:
    after = same(notes, "averaging", "after")
    for name, value in after.items():
        locals_ = [torch.tensor(node["averaging"]["before"][name], dtype=torch.float64) for node in notes]
        # The bias before a batch norm has no gradient, so there the nodes never part.
        assert name == "0.bias" or not torch.equal(locals_[0], locals_[1])
        mean = torch.stack(locals_).mean(0)
        torch.testing.assert_close(torch.tensor(value, dtype=torch.float64), mean, rtol=1e-7, atol=1e-9)


def test_two_nodes_that_disagree_both_stop_and_name_both_digests(notes: Notes) -> None:
    errors = [node["pair"]["error"] for node in notes[:2]]
    assert errors[0] == errors[1]
    assert "no state has a majority" in errors[0]
    assert "on rank 0" in errors[0]
    assert "on rank 1" in errors[0]
    assert "'outer/0.weight'" in errors[0]
    assert all(node["pair"]["weights_untouched"] for node in notes[:2])


def test_three_different_states_have_no_majority(notes: Notes) -> None:
    error = same(notes, "three_ways", "error")
    assert "no state has a majority" in error
    assert "on rank 2" in error
    assert "'outer/0.bias'" in error


def test_another_model_is_refused_on_all_nodes_with_the_difference(notes: Notes) -> None:
    error = same(notes, "strangers", "model")
    assert error.startswith("rank 2: ")
    assert "(4, 6) here" in error
    assert "(5, 6) on rank 0" in error


def test_other_settings_are_refused_on_all_nodes(notes: Notes) -> None:
    error = same(notes, "strangers", "settings")
    assert error.startswith("rank 1: ")
    assert "outer_lr 0.5 here" in error


def test_an_unmaterialised_model_is_refused_on_all_nodes(notes: Notes) -> None:
    error = same(notes, "strangers", "lazy")
    assert error.startswith("rank 1: ")
    assert "UninitializedParameter" in error


def test_a_nan_on_one_node_stops_all_before_it_is_shared(notes: Notes) -> None:
    error = same(notes, "not_finite", "error")
    assert error.startswith("rank 2: ")
    assert "'2.weight'" in error
    assert same(notes, "not_finite", "state_kept") is True


def test_a_model_changed_after_joining_is_refused_on_all_nodes(notes: Notes) -> None:
    error = same(notes, "not_finite", "changed")
    assert error.startswith("rank 2: ")
    assert "changed after joining" in error


def test_a_resumed_run_ends_on_the_same_bits(notes: Notes) -> None:
    straight = same(notes, "resume", "straight")
    assert [report and report[:2] for report in straight] == [None, [6, 2], None, None, [9, 3]]
    assert same(notes, "resume", "resumed") == straight
    assert same(notes, "resume", "same_weights") is True


def test_a_node_that_dies_leaves_the_others_with_their_last_state(notes: Notes) -> None:
    for node in notes[:2]:
        assert "has probably gone away" in node["one_dies"]["error"]
        assert node["one_dies"]["untouched"] is True


def test_an_outsider_of_the_group_is_told(notes: Notes) -> None:
    assert "not a member" in notes[2]["outsider"]


def test_under_torchrun_a_group_is_made_and_taken_down(tmp_path: Path, child_environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    done = subprocess.run(
        [*command, str(HERE / "launched.py"), str(tmp_path)],
        env=child_environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"launched{rank}.json").read_text()) for rank in range(2))
    assert (first["size"], first["rank"], second["rank"]) == (2, 0, 1)
    assert first["digests"] == second["digests"]
    assert len(first["digests"]) == 1
    # The third step is shared on leaving, so the nodes part with the same model.
    assert first["weights"] == second["weights"]
    assert not first["group_left"]
    assert not second["group_left"]
