"""Sites that only connect outwards, and the coordinator they connect to, over TCP with or without TLS.

- `SiteSettings`, `CoordinatorSettings`: what the two kinds of node are told.
- `frames`, `handshake`, `identity`: bounded frames, the keyed challenge at joining, keys and certificates.
- `Link`: a site's end of the connection; `serve`: the coordinator's process.
"""

from __future__ import annotations

from clisonix.tide.net.link import Link
from clisonix.tide.net.serve import serve
from clisonix.tide.net.settings import CoordinatorSettings, SiteSettings

__all__ = ["CoordinatorSettings", "Link", "SiteSettings", "serve"]
