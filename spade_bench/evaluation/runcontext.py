"""What all tasks of a run share, and how it shares the work with other runs of the folder."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from spade_bench import console
from spade_bench.calibration.timings import FitPace
from spade_bench.errors import SpadeBenchError
from spade_bench.evaluation.cells import Cell
from spade_bench.evaluation.keptheads import HEADS, HeadKeeper
from spade_bench.features.bagmemory import BagMemory
from spade_bench.files import hash_obj
from spade_bench.leases import Leases
from spade_bench.results import Finished, ResultStore, Row, environment
from spade_bench.results.rows import now

if TYPE_CHECKING:
    from spade_bench.features.casebags import CaseBags

__all__ = ["LEASES", "Context", "make_row", "work_key"]

T = TypeVar("T")

LEASES = ".leases"
"""Folder, in that of the results, of the leases on what is being worked on."""


@dataclass
class Context:
    """What all tasks of a run share.

    Attributes:
        store: Where rows go.
        finished: Which run ids need not run again.
        device: Name of the device.
        grids: Head -> grid to choose from; no entry without a choice.
        group_by_site: Whether inner folds keep sites together.
        keeper: Stores fitted heads; None keeps none.
        memory: Where bags are kept, those of all encoders and tasks: what one task has read or
            pooled of a case, the next one finds.
        seat: Where in the work to begin, as (i, n): at the i-th of n parts of it, i from 0.
        failed_elsewhere: Run ids that another process has tried, in vain, since this run began.
        base: Base bags of the latest task, by their files: tasks over the same cases read and pool
            them once.
        paces: How long fits take, by head, width, outputs and kind; filled by a dry run.
        done: Cells that finished.
        skipped: Cells that had been finished before.
        elsewhere: Cells that other processes finished meanwhile.
        failed: Cells that failed, here or meanwhile in another process.
        failed_meanwhile: Those of them that another process tried.
        first_error: What went wrong first.
    """

    store: ResultStore
    finished: Finished
    device: str
    grids: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)
    group_by_site: bool = False
    keeper: HeadKeeper | None = None
    memory: BagMemory = field(default_factory=BagMemory)
    seat: tuple[int, int] = (0, 1)
    failed_elsewhere: set[str] = field(default_factory=set)
    base: dict[str, CaseBags] = field(default_factory=dict)
    paces: dict[tuple[str, int, int, str], FitPace] = field(default_factory=dict)
    done: int = 0
    skipped: int = 0
    elsewhere: int = 0
    failed: int = 0
    failed_meanwhile: int = 0
    first_error: str = ""
    _failed_here: set[str] = field(default_factory=set)
    _why: dict[str, str] = field(default_factory=dict)  # run id -> the error of another process

    @cached_property
    def leases(self) -> Leases:
        """Leases on the work of the folder."""
        told_by = (self.store.path, self.store.out / HEADS)
        return Leases(self.store.out / LEASES, told_by=lambda _: told_by)

    def in_turn(
        self,
        groups: Sequence[T],
        cells_of: Callable[[T], Sequence[Cell]],
        key: Callable[[T], str],
        bar: console.Progress,
    ) -> Generator[T, None, None]:
        """Yield groups of cells that train together, each while no other process works on it.

        Which of its cells are to be fitted is what `is_open` says then. Close the generator when an
        error ends the work.

        Args:
            groups: What there is to do.
            cells_of: Tells the cells of a group.
            key: Names the work on a group; see `work_key`.
            bar: Moves on by cells that others finish meanwhile.
        """
        # By position: the cells that neither this run nor another has tried so far.
        left = [[cell for cell in cells_of(group) if self.is_open(cell)] for group in groups]

        def is_done(at: int) -> bool:
            if left[at]:
                self._look_again(left[at])
                still = [cell for cell in left[at] if self.is_open(cell)]
                gone = len(left[at]) - len(still)
                lost = [c.run_id for c in left[at]
                        if c.run_id in self.failed_elsewhere and not self.is_done(c)]  # fmt: skip
                vain = len(lost)
                for run_id in lost:
                    self.first_error = self.first_error or self._why.get(run_id, "")
                self.elsewhere += gone - vain
                self.failed += vain
                self.failed_meanwhile += vain
                bar.found(gone)
                left[at] = still
            return not left[at]

        first = len(groups) * self.seat[0] // self.seat[1]
        order = [*range(first, len(groups)), *range(first)]
        for at in self.leases.in_turn(order, lambda at: key(groups[at]), is_done):
            left[at] = []  # whatever becomes of them is counted by whoever works on them
            yield groups[at]

    def is_done(self, cell: Cell) -> bool:
        """Whether a cell need not be fitted: its row is stored, and its head if it is kept."""
        if cell.run_id not in self.finished:
            return False
        return self.keeper is None or not self.keeper.lacks(cell)

    def is_open(self, cell: Cell) -> bool:
        """Whether a cell is to be fitted: not done, nor tried by another process meanwhile."""
        return not self.is_done(cell) and cell.run_id not in self.failed_elsewhere

    def _look_again(self, cells: Sequence[Cell]) -> None:
        """Take note of what other processes have stored since the last look.

        Args:
            cells: Those whose heads are looked for, too.
        """
        rows = self.store.appended()
        self.finished.add([row for row in rows if row.status == "ok"])
        failed = [row for row in rows if row.status == "failed"]
        self.failed_elsewhere |= {row.run_id for row in failed} - self._failed_here
        self._why |= {row.run_id: row.error or "" for row in failed}
        if self.keeper is not None:
            self.keeper.look_again(cells)

    def fail(self, cells: Sequence[Cell], error: Exception, seconds: float) -> None:
        """Store failed rows, of cells that have no finished one; the rest of the run goes on."""
        expected = isinstance(error, SpadeBenchError)
        text = str(error) if expected else f"{type(error).__name__}: {error}"
        console.warn(f"{cells[0].encoder} {cells[0].head} on {cells[0].task} failed: {text}")
        self._failed_here |= {cell.run_id for cell in cells}
        self.store.append(
            [
                make_row(cell, "failed", self.device, seconds, error=text)
                for cell in cells
                if cell.run_id not in self.finished
            ]
        )
        self.failed += len(cells)
        self.first_error = self.first_error or text


def work_key(cell: Cell, steps: str) -> str:
    """Name the work on cells that train together, whichever of their episodes are asked for.

    Args:
        cell: One of them.
        steps: What is done to the features; see `VariantKey`.
    """
    inputs = {name: cell.inputs.get(name) for name in ("features", "base", "head", "select")}
    owner = cell.control_of or cell.encoder
    return hash_obj([cell.task, owner, cell.head, cell.seed, cell.episode.protocol, inputs, steps])


def make_row(cell: Cell, status: Any, device: str, seconds: float, **rest: Any) -> Row:
    """Make the row of a cell."""
    episode = cell.episode
    return Row(
        run_id=cell.run_id,
        status=status,
        encoder=cell.encoder,
        task=cell.task,
        head=cell.head,
        protocol=episode.protocol,
        k_shot=episode.k_shot,
        draw=episode.draw,
        fold=episode.fold,
        seed=cell.seed,
        inputs=cell.inputs,
        flags=cell.flags,
        control=cell.control,
        control_of=cell.control_of,
        identity=cell.identity,
        env={**environment(device), **cell.about},
        seconds=round(seconds, 4),
        created_utc=now(),
        **rest,
    )
