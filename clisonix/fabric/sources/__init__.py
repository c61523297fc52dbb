"""Readers of recordings, one file a format; `open_source` finds the right one."""

from clisonix.fabric.sources.opening import open_source

__all__ = ["open_source"]
