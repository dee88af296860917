"""Takes finished features from other extractions, by what made them and what they were made of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from spade_bench import console
from spade_bench.errors import UserError
from spade_bench.extraction.recipe import EncoderSource, Recipe, stored_recipe
from spade_bench.extraction.stream import Job
from spade_bench.files import atomic_path

__all__ = ["take_from"]


def take_from(
    others: Sequence[Path], jobs: Sequence[Job], source: EncoderSource, folder: Path
) -> None:
    """Link the features of jobs that lie in other folders and are not, or stale, in this one.

    A file is taken when it says what made it and this is the same encoder, and when it was made of
    the same input. It is linked where the file system can, so that nothing is stored twice; files
    of features are replaced and never changed, so neither folder can spoil the other's.

    Args:
        others: Folders of features of other extractions.
        jobs: What is to be extracted.
        source: The encoder.
        folder: Folder of features to fill.
    """
    taken: dict[Path, int] = {}
    for job in jobs:
        target = folder / f"{job.slide_id}.h5"
        candidates = [other / target.name for other in others if (other / target.name).is_file()]
        with suppress(UserError, OSError):  # said when the job is done itself
            recipe = Recipe(job.inputs()) if candidates else None
            if recipe is None or _current(target, recipe, source, old=True):
                continue
            for path in candidates:
                if _current(path, recipe, source, old=False):
                    _link(path, target)
                    taken[path.parent] = taken.get(path.parent, 0) + 1
                    break
    for place, n in taken.items():
        console.say(f"{n} feature file(s) of the same encoder and input taken from {place}")


def _current(path: Path, recipe: Recipe, source: EncoderSource, *, old: bool) -> bool:
    """Whether a file is what the recipe would make; ``old`` counts those that name no identity."""
    stored = stored_recipe(path)
    if stored is None or (stored.identity is None and not old):
        return False
    return not recipe.changes(stored, source)


def _link(path: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        try:
            os.link(path, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(path, temporary)
