"""Tide: one verified training state over many nodes.

- `TideEngine`: joins a group; every few steps all nodes meet, take one outer step and prove they agree.
- `TideSettings`: how often they meet and how far the outer step goes.
- `SyncReport`: what one meeting did and cost.

The core needs no transport; engines are built on it. Its modules: `site` and `coordinator` (the state machines),
`replica` and `roll` (the agreed state), `message` and `wire` (what travels), `codecs` (compressed updates), `digest`,
`outer`, `membership`, `log` and `journal` (what a coordinator resumes from), `snapshot` and `joint` (what a site does
from), `simulator` and `invariants` (what must hold whatever goes wrong).
"""

from __future__ import annotations

from clisonix.tide.engine import TideEngine
from clisonix.tide.interface import Engine, SyncReport
from clisonix.tide.net import CoordinatorSettings, SiteSettings, serve
from clisonix.tide.net.start import write_start
from clisonix.tide.settings import TideSettings
from clisonix.tide.sites import SiteEngine, SiteReport

__all__ = [
    "CoordinatorSettings",
    "Engine",
    "SiteEngine",
    "SiteReport",
    "SiteSettings",
    "SyncReport",
    "TideEngine",
    "TideSettings",
    "serve",
    "write_start",
]
