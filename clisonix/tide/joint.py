"""What goes into a joint snapshot, as named tensors and JSON, and how it comes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clisonix.errors import ClisonixError
from clisonix.tide.codecs import Feedback
from clisonix.tide.message import Kind, Message, Packed
from clisonix.tide.replica import Replica

Tensors = dict[str, Tensor]


def pack_tree(prefix: str, tree: Any, tensors: Tensors) -> Any:  # noqa: ANN401 - nested state of any optimiser
    """The nested state of an optimiser as JSON, its tensors put into `tensors` under `prefix`.

    Raises:
        ClisonixError: something in it is neither a tensor nor JSON.
    """
    if isinstance(tree, Tensor):
        tensors[prefix] = tree
        return {"tensor": prefix}
    if isinstance(tree, Mapping):
        items = [[key, pack_tree(f"{prefix}/{key}", value, tensors)] for key, value in tree.items()]
        return {"map": items}
    if isinstance(tree, list | tuple):
        return {"list": [pack_tree(f"{prefix}/{i}", each, tensors) for i, each in enumerate(tree)]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return {"value": tree}
    raise ClisonixError(f"{prefix!r} holds a {type(tree).__name__}, but a snapshot keeps tensors, numbers and texts")


def unpack_tree(packed: Any, tensors: Mapping[str, Tensor]) -> Any:  # noqa: ANN401 - see pack_tree
    """The opposite of `pack_tree`."""
    if "tensor" in packed:
        return tensors[packed["tensor"]]
    if "map" in packed:
        return {key: unpack_tree(value, tensors) for key, value in packed["map"]}
    if "list" in packed:
        return [unpack_tree(each, tensors) for each in packed["list"]]
    return packed["value"]


def pack_site(
    replica: Replica,
    feedback: Feedback,
    model: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    generators: Mapping[str, torch.Generator] | None = None,
) -> tuple[Tensors, dict[str, Any]]:
    """Everything one site holds: model, both optimisers, error feedback, random state and all cursors.

    Returns:
        Tensors, not copied, and facts, for `snapshot.save`.
    """
    tensors: Tensors = {
        "agreed/outer": torch.from_numpy(replica.outer),
        "agreed/momentum": torch.from_numpy(replica.momentum),
        "feedback/residual": torch.from_numpy(feedback.residual),
    }
    for index, part in enumerate(feedback.codec.memory()):
        tensors[f"feedback/memory/{index}"] = torch.from_numpy(np.ascontiguousarray(part))
    for each in replica.roll.tensors():
        tensors[each.name] = torch.from_numpy(np.array(each.array()))
    facts: dict[str, Any] = {
        "round": replica.round,
        "term": replica.term,
        "names": list(replica.roll.names),
        "root": replica.root().hex(),
    }
    if model is not None:
        facts["model"] = pack_tree("model", dict(model.state_dict()), tensors)
    if optimizer is not None:
        facts["inner"] = pack_tree("inner", optimizer.state_dict(), tensors)
    for name, generator in (generators or {}).items():
        tensors[f"random/{name}"] = generator.get_state()
    return tensors, facts


def unpack_site(
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    replica: Replica,
    feedback: Feedback,
    model: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    generators: Mapping[str, torch.Generator] | None = None,
) -> None:
    """Put back what `pack_site` gave.

    Raises:
        ClisonixError: the snapshot is of another model, or its state is not the one it was taken of.
    """
    if tensors["agreed/outer"].shape != replica.outer.shape:
        raise ClisonixError(
            f"the snapshot is of a model of {tensors['agreed/outer'].numel()} values, not of {replica.outer.size}"
        )
    replica.outer[:] = tensors["agreed/outer"].numpy()
    replica.momentum[:] = tensors["agreed/momentum"].numpy()
    rolls = tuple(Packed.raw(name, t.numpy()) for name, t in tensors.items() if name.startswith("roll/"))
    replica.roll.adopt(Message(Kind.BASE, "snapshot", fields={"names": facts["names"]}, tensors=rolls))
    replica.round, replica.term = facts["round"], facts["term"]
    if replica.root().hex() != facts["root"]:
        raise ClisonixError("the snapshot's state does not have the digest it was saved with: use an older snapshot")
    feedback.residual = np.array(tensors["feedback/residual"].numpy(), np.float32)
    memory = [name for name in tensors if name.startswith("feedback/memory/")]
    feedback.codec.recall([tensors[f"feedback/memory/{i}"].numpy() for i in range(len(memory))])
    if model is not None:
        model.load_state_dict(unpack_tree(facts["model"], tensors))
    if optimizer is not None:
        optimizer.load_state_dict(unpack_tree(facts["inner"], tensors))
    for name, generator in (generators or {}).items():
        generator.set_state(tensors[f"random/{name}"])
