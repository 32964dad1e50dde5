"""The fixture of the made-up world."""

from autointerp_world import world

__all__ = ["world"]
