"""How often the nodes meet, and how far the outer step goes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from clisonix.errors import ClisonixError, nearest


@dataclass(frozen=True)
class TideSettings:
    """The settings every node of a group must share.

    The defaults of the outer step are those of DiLoCo (Douillard et al. 2023, arXiv 2311.08105).

    Args:
        inner_steps: local steps between two syncs.
        outer_lr: learning rate of the outer Nesterov step; 1 with momentum 0 is plain averaging.
        outer_momentum: momentum of the outer Nesterov step, in [0, 1).

    Raises:
        ClisonixError: a value is out of range.
    """

    inner_steps: int = 100
    outer_lr: float = 0.7
    outer_momentum: float = 0.9

    def __post_init__(self) -> None:
        whole = isinstance(self.inner_steps, int) and not isinstance(self.inner_steps, bool)
        if not whole or self.inner_steps < 1:
            raise ClisonixError(
                f"inner_steps is {self.inner_steps!r}, but the nodes must meet every 1 or more whole steps: "
                "give a positive integer"
            )
        if not (math.isfinite(self.outer_lr) and self.outer_lr > 0):
            raise ClisonixError(f"outer_lr is {self.outer_lr!r}, but it must be above 0: try 0.7")
        if not 0 <= self.outer_momentum < 1:
            raise ClisonixError(
                f"outer_momentum is {self.outer_momentum!r}, but it must be in [0, 1): try 0.9, or 0 for none"
            )

    @classmethod
    def of(cls, given: TideSettings | Mapping[str, float] | None, changes: Mapping[str, float]) -> TideSettings:
        """Settings from an object or a mapping, with `changes` on top.

        Raises:
            ClisonixError: a key is unknown, or a value is out of range.
        """
        base, named = (given, {}) if isinstance(given, TideSettings) else (cls(), dict(given or {}))
        named.update(changes)
        valid = [field.name for field in fields(cls)]
        for key in named:
            if key not in valid:
                raise ClisonixError(f"TideEngine has no setting {key!r}{nearest(key, valid)}")
        return replace(base, **named)  # type: ignore[arg-type]  # __post_init__ checks each value
