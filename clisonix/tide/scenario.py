"""What is simulated, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from clisonix.tide.codecs import CodecSettings
from clisonix.tide.replica import Rules

HUB, RIVAL = "hub", "rival"


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        at_s: when, in virtual time.
        kind: `kill`, `hang`, `cut` (no messages), `flip` (one bit of the state), `join`, `leave`, or `rival`: while
            the node named is cut off together with half the sites, another coordinator calls there.
        node: whom it befalls; `hub` is the coordinator.
        for_s: after which a node that was killed, hung or cut off is back.
    """

    at_s: float
    kind: str
    node: str
    for_s: float = 5.0


@dataclass(frozen=True)
class Scenario:
    """What is simulated.

    Args:
        sites: at the beginning.
        rounds: to commit.
        seed: of the network, the data and the faults.
        drop: part of all messages that get lost.
        duplicate: part of all messages that come twice.
        faults: in any order.
        rules: codecs, time-outs and so on.
        size: parameters of the model.
        limit_s: virtual time after which the run counts as stuck.
    """

    sites: int = 5
    rounds: int = 10
    seed: int = 0
    drop: float = 0.0
    duplicate: float = 0.0
    faults: Sequence[Fault] = ()
    rules: Rules = field(
        default_factory=lambda: Rules(
            up=CodecSettings("short"), down=CodecSettings("short"), timeout_s=4.0, resend_s=3.0, patience=3
        )
    )
    size: int = 48
    limit_s: float = 400.0

    @classmethod
    def random(cls, seed: int, rounds: int = 12) -> Scenario:
        """A small scenario with a few faults of all kinds."""
        draw = Random(seed)
        sites = draw.randint(3, 7)
        codec = draw.choice([CodecSettings("short"), CodecSettings("sparse", density=0.1), CodecSettings("dense")])
        names = [site_name(index) for index in range(sites)]
        kinds = ["kill", "kill", "hang", "cut", "flip", "flip", "join", "leave", "rival"]
        faults = [
            Fault(draw.uniform(0.5, 1.5 * rounds), kind, draw.choice([*names, HUB]), draw.uniform(0.5, 9.0))
            for kind in draw.choices(kinds, k=draw.randint(0, 6))
        ]
        overlap, lossy = draw.random() < 0.3, draw.random() < 0.5
        rules = Rules(up=codec, down=codec, min_sites=sites, timeout_s=4.0, resend_s=3.0, overlap=overlap)
        return cls(sites, rounds, seed, 0.05 * lossy, 0.05 * lossy, faults, rules)


@dataclass(frozen=True)
class Outcome:
    """What came of a scenario.

    Attributes:
        rounds: that were committed.
        digest: of the final state, in hex, which all nodes hold.
        virtual_s: time that passed in the simulation.
        events: messages and timers that were handled.
        sent_bytes: by sites and by coordinators, every message whole.
        refused: messages, by reason.
        healed: updates that were told to be odd.
        final_voters: at the end.
    """

    rounds: int
    digest: str
    virtual_s: float
    events: int
    sent_bytes: Mapping[str, int]
    refused: Mapping[str, int]
    healed: int
    final_voters: int


def site_name(index: int) -> str:
    """Of a site by its number."""
    return f"s{index:04d}"
