"""How the workers of one command share the slides of a folder, and tell each other of failures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from spade_bench.files import atomic_path, file_name

__all__ = ["LEASES", "Sharing"]

LEASES = ".leases"
"""Folder, beside the features, of the leases on the slides that are worked on."""

T = TypeVar("T")


@dataclass(frozen=True)
class Sharing:
    """How a process shares a folder with the other workers of its command.

    Attributes:
        seat: Where in the work to begin, as (i, n): at the i-th of n parts of it, i from 0.
        notes: Folder in which they tell each other what cannot be done; None for no others.
    """

    seat: tuple[int, int] = (0, 1)
    notes: Path | None = None

    def order(self, items: Sequence[T]) -> list[T]:
        """Return the items as this process tries them: from its seat on, and around."""
        at = len(items) * self.seat[0] // self.seat[1]
        return [*items[at:], *items[:at]]

    def note(self, slide_id: str, why: str) -> None:
        """Tell the others that a slide cannot be done."""
        if self.notes is not None:
            with atomic_path(self._note(self.notes, slide_id), durable=False) as temporary:
                temporary.write_text(why, encoding="utf-8", errors="backslashreplace")

    def noted(self, slide_id: str) -> str | None:
        """Why another worker could not do a slide; None where none says so."""
        if self.notes is not None:
            with suppress(OSError):
                return self._note(self.notes, slide_id).read_text(encoding="utf-8")
        return None

    def _note(self, folder: Path, slide_id: str) -> Path:
        # A script that is submitted again tries again what failed before.
        return folder / os.environ.get("SLURM_ARRAY_JOB_ID", "") / file_name(slide_id)
