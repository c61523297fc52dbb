"""How nodes begin together: the same model, the same settings, the same weights."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import nn

from clisonix.errors import ClisonixError
from clisonix.tide.exchange import spread
from clisonix.tide.nodes import Nodes
from clisonix.tide.settings import TideSettings
from clisonix.tide.shared import Shared, host_copy, real_view, shared_tensors


def meet(nodes: Nodes, model: nn.Module, settings: TideSettings) -> Shared:
    """Check that all nodes brought the same model and settings; take over rank 0's tensors.

    Raises:
        ClisonixError: on every node alike, with the first difference that the odd node sees.
    """
    shared, complaint = None, None
    lines = [f"setting {name} {float(value)!r}" for name, value in asdict(settings).items()]
    try:
        shared = shared_tensors(model)
        lines += shared.describe()
    except ClisonixError as error:
        complaint = str(error)
    expected = nodes.broadcast_text("\n".join(lines)).split("\n")
    different = first_difference(lines, expected)
    if complaint is None and different:
        mine, theirs = different
        complaint = (
            f"the models or settings of the nodes differ ({mine} here, {theirs} on rank 0): start all nodes from "
            "the same configuration"
        )
    nodes.all_well(complaint)
    assert shared is not None
    copies = {name: host_copy(real_view(tensor)) for name, tensor in shared.all().items()}
    spread(nodes, copies, source=0)
    with torch.no_grad():
        for name, tensor in shared.all().items():
            real_view(tensor).copy_(copies[name])
    return shared


def first_difference(mine: list[str], theirs: list[str]) -> tuple[str, str] | None:
    """The first pair of lines that is not the same; a missing line reads `nothing`."""
    for index in range(max(len(mine), len(theirs))):
        a = mine[index] if index < len(mine) else "nothing"
        b = theirs[index] if index < len(theirs) else "nothing"
        if a != b:
            return a, b
    return None
