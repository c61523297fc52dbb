"""Clocks: what a stream's own time is on the fabric's clock, and how well that is known."""

from clisonix.fabric.clocks.anchors import from_anchors, pair_events
from clisonix.fabric.clocks.blind import blind
from clisonix.fabric.clocks.causal import CausalClock
from clisonix.fabric.clocks.clock import Clock, Segment
from clisonix.fabric.clocks.device import from_device
from clisonix.fabric.clocks.edges import Edges, edges
from clisonix.fabric.clocks.match import match_events
from clisonix.fabric.clocks.offsets import from_offsets
from clisonix.fabric.clocks.samples import from_samples

__all__ = [
    "CausalClock",
    "Clock",
    "Edges",
    "Segment",
    "blind",
    "edges",
    "from_anchors",
    "from_device",
    "from_offsets",
    "from_samples",
    "match_events",
    "pair_events",
]
