"""Keeps the fitted heads of a run for later explanation: OUT/heads/RUN_ID/, one folder per cell."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.console import say, warn
from spade_bench.errors import DataError, UserError, name_some
from spade_bench.evaluation.cells import Cell
from spade_bench.files import (
    file_name,
    read_sealed,
    replace_folder,
    temporary_beside,
    write_sealed,
)
from spade_bench.heads import FittedHead, Head, can_be_saved

if TYPE_CHECKING:
    from spade_bench.results import Predictions

__all__ = ["HEADS", "KEEP_HEADS", "HeadKeeper", "check_kept_head", "kept_head", "say_kept"]

HEADS = "heads"
"""Folder, in that of the results, of the heads that are kept."""

KEEP_HEADS = ("none", "folds", "all")
SAME_PREDICTION = 1e-6
"""How far a prediction may lie from the stored one where a cell is trained again."""


def say_kept(out: Path, heads: str = "fitted heads", size: str = "") -> None:
    """Say where fitted heads were kept, and how to keep none."""
    say(f"{heads} kept in {out / HEADS}{size}; --keep-heads none keeps none")


class HeadKeeper:
    """Stores fitted heads as a run makes them.

    Args:
        out: Folder of the results.
        which: `none`; `folds` for the fold models of cross-validation, without controls; `all` for
            every cell that is fitted.
        made: Heads of the run by name.
        again: Whether finished cells whose head is missing or damaged are trained again.

    Attributes:
        kept: How many heads were stored.
        n_bytes: Their size.
        unlike: Run ids of cells that, trained again, predicted something else than is stored.
        unsaved: Why a head could not be saved; empty when all could.

    Raises:
        UserError: When ``which`` is none of them.
    """

    def __init__(
        self, out: Path, which: str, made: Mapping[str, Head], *, again: bool = False
    ) -> None:
        if which not in KEEP_HEADS:
            raise UserError(
                f"'{which}' is no choice of heads to keep",
                where="--keep-heads",
                fix=f"Use {', '.join(KEEP_HEADS)}",
            )
        self._out, self._which, self._again = out, which, again
        self._savable = {name for name, head in made.items() if can_be_saved(head)}
        self._lacking: dict[str, bool] = {}
        self._held: dict[str, Path] = {}
        self.kept, self.n_bytes, self.unsaved = 0, 0, ""
        self.unlike: list[str] = []

    def wants(self, cell: Cell) -> bool:
        """Whether the head of a cell is to be kept; an ensemble has none of its own."""
        if cell.members:
            return False
        if self._which == "folds":
            control = bool(cell.control)
            return cell.episode.fold is not None and not control
        return self._which == "all"

    def lacks(self, cell: Cell) -> bool:
        """Whether a finished cell is to be trained again for its head; looked up once per cell."""
        if not (self._again and self.wants(cell) and cell.head in self._savable):
            return False
        if cell.run_id not in self._lacking:
            folder = kept_head(self._out, cell.run_id)
            self._lacking[cell.run_id] = True
            if folder.exists():
                try:
                    check_kept_head(folder)
                    self._lacking[cell.run_id] = False
                except DataError as error:
                    warn(f"{error} The cell is trained again")
        return self._lacking[cell.run_id]

    def look_again(self, cells: Sequence[Cell]) -> None:
        """Look up once more whether cells lack their heads: another process may keep them now."""
        for cell in cells:
            if self._lacking.get(cell.run_id):
                del self._lacking[cell.run_id]

    def keep(
        self, cell: Cell, fitted: FittedHead, classes: Sequence[str], *, hold: bool = False
    ) -> None:
        """Store the head of a cell, with the cases that trained it.

        A head that cannot be saved is said at the end, and its results stand.

        Args:
            cell: The cell.
            fitted: Its head.
            classes: Names for the columns of a prediction.
            hold: Leave the place of the head as it is until `settle` says that it belongs there.
        """
        target = kept_head(self._out, cell.run_id)
        folder = temporary_beside(target) if hold else target
        try:
            fitted.with_classes(classes).save(folder)
        except UserError as error:
            self.unsaved = str(error)
            return
        write_sealed(folder / "cell.json", _described(cell))
        if hold:
            self.drop(cell)
            self._held[cell.run_id] = folder
        else:
            self._count(folder)

    def settle(self, cell: Cell, predictions: Predictions, stored: Predictions) -> None:
        """Put the held head of a finished cell into its place, if it predicts what is stored.

        Otherwise the cell is named, and neither its row nor an older head is touched.
        """
        difference = _difference(predictions, stored)
        if difference > SAME_PREDICTION:
            self.unlike.append(cell.run_id)
            self.drop(cell)
            warn(
                f"{cell.encoder} {cell.head} on {cell.task}: trained again, the head of "
                f"{cell.run_id} predicts something else than is stored (by up to "
                f"{difference:.1g}). It is not kept, and nothing is overwritten"
            )
        elif cell.run_id in self._held:
            folder = kept_head(self._out, cell.run_id)
            replace_folder(folder, self._held.pop(cell.run_id))
            self._lacking[cell.run_id] = False
            self._count(folder)

    def drop(self, cell: Cell) -> None:
        """Remove the held head of a cell, if there is one."""
        folder = self._held.pop(cell.run_id, None)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _count(self, folder: Path) -> None:
        self.kept += 1
        self.n_bytes += sum(path.stat().st_size for path in folder.iterdir())

    def summarise(self, *, alone: bool) -> None:
        """Say how many heads were kept, where, and how large they are.

        Args:
            alone: Whether these are all; of several workers none knows what the others keep.
        """
        if self.kept and alone:
            say_kept(self._out, f"{self.kept} fitted heads", f" ({self.n_bytes / 1e6:.1f} MB)")
        if self.unsaved:
            say(f"Some heads were not kept: {self.unsaved}")

    def check(self) -> None:
        """Refuse to call a run whole whose cells, trained again, predicted something else.

        Raises:
            DataError: Naming the cells.
        """
        if self.unlike:
            raise DataError(
                f"{len(self.unlike)} cell(s), trained again for their heads, predict something "
                f"else than is stored: {name_some(self.unlike)}",
                where=str(self._out / HEADS),
                fix="Use the version and device that made the results, or run into a new folder "
                "with --out",
            )


def kept_head(out: Path, run_id: str) -> Path:
    """Return the folder of the fitted head of a cell; `FittedHead.load` reads it."""
    return out / HEADS / file_name(run_id)  # a hash, unless the results are a stranger's


def check_kept_head(folder: Path) -> None:
    """Make sure that the kept head of a cell is whole.

    Raises:
        DataError: When a file is missing, damaged, or of another cell.
    """
    FittedHead.check_files(folder)
    if read_sealed(folder / "cell.json").get("run_id") != folder.name:
        raise DataError("describes another cell", where=str(folder / "cell.json"))


def _described(cell: Cell) -> dict[str, Any]:
    episode = cell.episode
    return {
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


def _difference(predictions: Predictions, stored: Predictions) -> float:
    """Largest difference of two predictions; infinite where they are not of the same cases."""
    import numpy as np

    if predictions.case_ids != stored.case_ids or predictions.scores.shape != stored.scores.shape:
        return float("inf")
    return float(np.abs(predictions.scores - stored.scores).max(initial=0.0))
