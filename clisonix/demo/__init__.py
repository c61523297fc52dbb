"""The local web app: watch streams weave, watch a model shrink, look at what runs cost.

- `serve`: start it on this machine and print its address.
- `create_app`: the application itself, for tests or another server.

Needs the extra `demo`.
"""

from __future__ import annotations

from clisonix.demo.server import create_app, serve

__all__ = ["create_app", "serve"]
