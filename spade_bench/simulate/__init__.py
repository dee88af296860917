"""Simulated data: paired H&E and expression, and slides with labels, from one story.

``studysettings`` documents the story and every constant of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spade_bench.simulate.build import simulate, story_hash

__all__ = ["simulate", "story_hash"]


def __getattr__(name: str) -> object:
    # The command line imports this package at start-up and must not load numpy for it.
    if name in __all__:
        from spade_bench.simulate import build

        return getattr(build, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
