"""Tide: one verified training state over many nodes.

- `TideEngine`: joins a group; every few steps all nodes meet, take one outer step and prove they agree.
- `TideSettings`: how often they meet and how far the outer step goes.
- `SyncReport`: what one meeting did and cost.
"""

from __future__ import annotations

from clisonix.tide.engine import SyncReport, TideEngine
from clisonix.tide.settings import TideSettings

__all__ = ["SyncReport", "TideEngine", "TideSettings"]
