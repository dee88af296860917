"""Keeps the fitted heads of a run for later explanation: OUT/heads/RUN_ID/, one folder per cell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spade_bench.console import say
from spade_bench.errors import UserError
from spade_bench.evaluation.cells import Cell
from spade_bench.files import write_json
from spade_bench.heads import FittedHead

__all__ = ["KEEP_HEADS", "HeadKeeper", "kept_head"]

KEEP_HEADS = ("none", "folds", "all")


class HeadKeeper:
    """Stores fitted heads as a run makes them.

    Args:
        out: Folder of the results.
        which: `none`; `folds` for the fold models of cross-validation, without controls; `all` for
            every cell that is fitted.

    Raises:
        UserError: When ``which`` is none of them.
    """

    def __init__(self, out: Path, which: str) -> None:
        if which not in KEEP_HEADS:
            raise UserError(
                f"'{which}' is no choice of heads to keep",
                where="--keep-heads",
                fix=f"Use {', '.join(KEEP_HEADS)}",
            )
        self._out, self._which = out, which
        self.kept, self.n_bytes, self.unsaved = 0, 0, ""

    def wants(self, cell: Cell) -> bool:
        """Whether the head of a cell is to be kept."""
        if self._which == "folds":
            control = bool(cell.control)
            return cell.episode.fold is not None and not control
        return self._which == "all"

    def keep(self, cell: Cell, fitted: FittedHead, classes: Sequence[str]) -> None:
        """Store the head of a cell, with the cases that trained it.

        A head that cannot be saved is said at the end, and its results stand.
        """
        folder = kept_head(self._out, cell.run_id)
        try:
            fitted.with_classes(classes).save(folder)
        except UserError as error:
            self.unsaved = str(error)
            return
        episode = cell.episode
        about = {
            "run_id": cell.run_id,
            "encoder": cell.encoder,
            "task": cell.task,
            "protocol": episode.protocol,
            "k_shot": episode.k_shot,
            "draw": episode.draw,
            "fold": episode.fold,
            "seed": cell.seed,
            "inputs": cell.inputs,
            "train": episode.train,
            "tune": episode.tune,
            "test": episode.test,
        }
        write_json(folder / "cell.json", about)
        self.kept += 1
        self.n_bytes += sum(path.stat().st_size for path in folder.iterdir())

    def summarise(self) -> None:
        """Say how many heads were kept, where, and how large they are."""
        if self.kept:
            say(
                f"{self.kept} fitted heads kept in {self._out / 'heads'} "
                f"({self.n_bytes / 1e6:.1f} MB); --keep-heads none keeps none"
            )
        if self.unsaved:
            say(f"Some heads were not kept: {self.unsaved}")


def kept_head(out: Path, run_id: str) -> Path:
    """Return the folder of the fitted head of a cell; `FittedHead.load` reads it."""
    return out / "heads" / run_id
