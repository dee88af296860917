"""The cells of a task of expression: encoder x head x fold; fit, predict, score, store."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from spade_bench import console
from spade_bench.cohorts.episodes import episode_hash
from spade_bench.errors import DataError, UserError
from spade_bench.evaluation.cells import Cell, fit_seed, head_words
from spade_bench.evaluation.runcontext import Context, make_row, work_key
from spade_bench.evaluation.spots.sectiondata import chosen_genes
from spade_bench.evaluation.spots.spotpreparation import LEAK_FIX, PreparedSpots, leak_sentence
from spade_bench.evaluation.spots.spotrows import SectionFeatures, SpotRow
from spade_bench.files import hash_obj
from spade_bench.heads.spots import SpotHead, SpotTask
from spade_bench.plugins import contained
from spade_bench.results import Row, write_spots
from spade_bench.results.rows import GENE_SIDE, NEEDS_GENE_SIDE, NO_GENE_SIDE
from spade_bench.results.spotpredictions import SpotPredictions
from spade_bench.statistics.genescores import constant_genes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spade_bench.evaluation.variants import Variant
    from spade_bench.heads.spots import JointSpace

__all__ = ["RowCells", "SpotRun", "row_cells"]


@dataclass(frozen=True)
class RowCells:
    """All folds of one row of the table: an encoder or control with one head."""

    row: SpotRow
    head: str
    cells: tuple[Cell, ...]


class _Fold(NamedTuple):
    """The model, the positions of training and test sections, the genes, a seed of its own."""

    variant: Variant
    train: Sequence[int]
    test: Sequence[int]
    genes: Sequence[str]
    seed: int


def row_cells(prepared: PreparedSpots, heads: Mapping[str, SpotHead], seed: int) -> list[RowCells]:
    """Return the cells of a task, row by row; a head has no row where it could say nothing.

    Args:
        prepared: The task.
        heads: Heads by name.
        seed: Seed of the run.

    Raises:
        UserError: When a head retrieves, and no encoder has a space to retrieve from.
    """
    names = [one.name for one in prepared.data]
    out, idle = [], {name for name, head in heads.items() if head.needs == "joint"}
    for row in prepared.rows.rows:
        variant = row.variant
        inputs = {**prepared.hashes, "features": prepared.rows.features_hash(row, names)}
        if variant.identity:
            inputs["encoder"] = hash_obj(variant.identity)
        if variant.base:
            inputs["base"] = variant.base
        described = {"control": variant.description} if variant.description else {}
        if not _gene_side(row):
            described[GENE_SIDE] = NO_GENE_SIDE
        for name, head in heads.items():
            if not _serves(head, row):
                continue
            idle.discard(name)
            cells = tuple(
                Cell(
                    encoder=variant.label,
                    task=prepared.card.name,
                    head=name,
                    seed=seed,
                    episode=episode,
                    inputs={
                        **inputs,
                        "head": hash_obj(head.params),
                        "episode": episode_hash(episode),
                    },
                    flags=prepared.flags_of(row),
                    control=variant.control,
                    control_of=variant.control_of,
                    identity=variant.made_by,
                    about={
                        **prepared.about,
                        **head_words(name, head),
                        **described,
                        **({GENE_SIDE: NEEDS_GENE_SIDE} if head.needs == "joint" else {}),
                    },
                )
                for episode in prepared.episodes
            )
            out.append(RowCells(row, name, cells))
    if idle:
        raise UserError(
            f"head '{sorted(idle)[0]}' retrieves spots in a space of images and expression, and no "
            "encoder of this run has one",
            fix="Add an encoder with gene heads and its --weights, or use another head",
        )
    return out


def _serves(head: SpotHead, row: SpotRow) -> bool:
    """Whether a head has anything to say of a row."""
    if head.needs == "nothing":  # it looks at no features: the encoder's own row is all there is
        return not row.variant.control
    # To retrieve is not to learn: with its spots dealt anew the space itself would be another.
    return head.needs == "features" or (_gene_side(row) and not row.permuted)


def _gene_side(row: SpotRow) -> bool:
    """Whether a row's encoder places expression beside images, so that spots can be retrieved."""
    encoder = row.variant.encoder
    return hasattr(encoder, "joint_space") and bool(getattr(encoder, "genes", ()))


@dataclass
class SpotRun:
    """Runs the cells of one task; the features of a row are made once for all its heads.

    Attributes:
        prepared: The task.
        heads: Heads by name.
        context: What all tasks of the run share.
    """

    prepared: PreparedSpots
    heads: Mapping[str, SpotHead]
    context: Context
    _genes: dict[tuple[int, str, int], tuple[str, ...]] = field(default_factory=dict)

    def run(self, todo: Sequence[RowCells]) -> None:
        """Run rows of the table."""
        name = self.prepared.card.name
        context = self.context
        done = sum(cell.run_id in context.finished for one in todo for cell in one.cells)
        context.skipped += done
        by_row: dict[tuple[str, str], list[RowCells]] = {}
        for one in todo:
            key = (one.row.variant.label, one.row.variant.control)
            by_row.setdefault(key, []).append(one)
        with (
            console.progress(
                f"Running {name}", sum(len(one.cells) for one in todo), "cells", done
            ) as bar,
            closing(context.in_turn([*by_row.values()], _cells, _key, bar)) as turns,
        ):
            for alike in turns:
                made: dict[int, SectionFeatures] = {}  # by model, of which folds may take several
                for one in alike:
                    for cell in filter(context.is_open, one.cells):
                        self._run_cell(one, cell, made)
                        bar.advance(1, f"{cell.encoder} {cell.head}")

    def _run_cell(self, one: RowCells, cell: Cell, made: dict[int, SectionFeatures]) -> None:
        started = time.perf_counter()
        prepared = self.prepared
        try:
            self._refuse_leak(one.row, cell)
            variant, _ = one.row.of_fold(cell.episode, prepared.sections.patient_of)
            if id(variant) not in made:
                self.context.memory.turn()
                made[id(variant)] = SectionFeatures(
                    one.row,
                    variant,
                    prepared.rows,
                    prepared.data,
                    cache=prepared.cache,
                    memory=self.context.memory,
                )
            row = self._finished(one, cell, variant, made[id(variant)], started)
        except Exception as error:
            self.context.fail([cell], error, time.perf_counter() - started)
            return
        self.context.store.append([row])
        self.context.finished.add([row])
        self.context.done += 1

    def _refuse_leak(self, row: SpotRow, cell: Cell) -> None:
        """Refuse a fold whose test sections, or their patients, trained the encoder.

        Raises:
            DataError: Saying so, unless the run allows it.
        """
        number = cell.episode.fold or 0
        leaks = self.prepared.leaks.get((row.variant.label, row.variant.control), {})
        if number in leaks and not self.prepared.leaky:
            label = row.variant.label
            text = leak_sentence(self.prepared, {number: leaks[number]}, label)
            raise DataError(text, where=f"fold {number}", fix=LEAK_FIX)

    def _finished(
        self,
        one: RowCells,
        cell: Cell,
        variant: Variant,
        features: SectionFeatures,
        started: float,
    ) -> Row:
        prepared, head = self.prepared, self.heads[one.head]
        at = {section.name: i for i, section in enumerate(prepared.data)}
        train = [at[name] for name in cell.episode.train]
        test = [at[name] for name in cell.episode.test]
        genes = self._genes_of(cell.episode.fold or 0, head, train)
        fold = _Fold(variant, train, test, genes, fit_seed(cell.seed, cell.episode))
        task, observed = self._task(one.row, head, cell.seed, features, fold)
        with contained(f"head '{one.head}'"):
            fit = head.predict(task)
        predicted = np.asarray(fit.predictions, dtype=np.float32)
        if predicted.shape != observed.shape or not np.isfinite(predicted).all():
            raise DataError(
                f"predictions of shape {predicted.shape} for {observed.shape[0]} spots and "
                f"{observed.shape[1]} genes, or some are not finite",
                where=f"head '{one.head}'",
            )
        sections = [prepared.data[i] for i in test]
        numbers = np.repeat(np.arange(len(test)), [len(s.barcodes) for s in sections])
        spots = SpotPredictions(
            genes=genes,
            sections=tuple(s.name for s in sections),
            patients=tuple(s.patient for s in sections),
            section=numbers,
            barcodes=tuple(str(b) for s in sections for b in s.barcodes),
            coords=np.concatenate([s.coords for s in sections]),
            observed=observed,
            predicted=predicted,
        )
        return self._row(cell, spots, fit.selected, len(task.target), started)

    def _genes_of(self, fold: int, head: SpotHead, train: Sequence[int]) -> tuple[str, ...]:
        listed = self.prepared.sections.genes if head.params["genes"] == "task" else None
        key = (fold, "task" if listed else "", int(head.params["n_genes"]))
        if key not in self._genes:
            training = [self.prepared.data[i] for i in train]
            self._genes[key] = chosen_genes(training, key[2], listed)
        return self._genes[key]

    def _task(
        self,
        row: SpotRow,
        head: SpotHead,
        seed: int,
        features: SectionFeatures,
        fold: _Fold,
    ) -> tuple[SpotTask, NDArray[np.float32]]:
        """The fold as the head sees it, and what was observed, which it does not see."""
        data, (_, train, test, genes, _) = self.prepared.data, fold
        unit = str(head.params["target"])
        target = np.concatenate([data[i].target(genes, unit) for i in train])  # (n, G)
        sizes = [len(data[i].barcodes) for i in train]
        patients = sorted({data[i].patient for i in train})
        section = np.repeat(np.arange(len(train)), sizes)  # (n,)
        owner = np.repeat([patients.index(data[i].patient) for i in train], sizes)  # (n,)
        if row.permuted:
            target = self.prepared.kind.permute(target, section, fold.seed).astype(np.float32)
        joint = self._joint(features, fold) if head.needs == "joint" else None
        none = np.empty((0, 0), dtype=np.float32)
        wanted = head.needs == "features"
        task = SpotTask(
            train=np.concatenate([features.of(i, train) for i in train]) if wanted else none,
            target=target,
            section=section,
            patient=owner,
            coords=np.concatenate([data[i].coords for i in train]),
            test=np.concatenate([features.of(i, train) for i in test]) if wanted else none,
            n_test=sum(len(data[i].barcodes) for i in test),
            seed=seed,  # as HEST-Bench gives one seed to all folds
            joint=joint,
        )
        return task, np.concatenate([data[i].target(genes, unit) for i in test])  # (m, G)

    def _joint(self, features: SectionFeatures, fold: _Fold) -> JointSpace:
        """Test patches and training spots in the space of the row's encoder."""
        data, encoder = self.prepared.data, fold.variant.encoder
        scaled = encoder.expression_unit == "lognorm"
        parts = [data[i].scaled if scaled else data[i].values for i in fold.train]
        space: JointSpace = encoder.joint_space(
            np.concatenate([features.base(i) for i in fold.test]),  # (m, D)
            sp.csr_matrix(sp.vstack(parts)),  # (n, G)
            data[0].genes.tolist(),
        )
        return space

    def _row(
        self,
        cell: Cell,
        spots: SpotPredictions,
        selected: Mapping[str, Any],
        n_train: int,
        started: float,
    ) -> Row:
        prepared = self.prepared
        sha256 = write_spots(self.context.store.out, cell.run_id, spots)
        metrics = prepared.kind.score(
            prepared.card.metrics, spots.observed, spots.predicted, spots.section
        )
        flat = constant_genes(spots.observed)
        n = {
            "train": len(cell.episode.train),
            "test": len(spots.sections),
            "patients": len(set(spots.patients)),
            "train_spots": n_train,
            "test_spots": len(spots.barcodes),
            "genes": len(spots.genes),
            "constant_genes": int(flat.sum()),
        }
        row = make_row(
            cell,
            "ok",
            self.context.device,
            time.perf_counter() - started,
            metrics=metrics,
            n=n,
            predictions_sha256=sha256,
        )
        words = {}
        if selected:
            words["selected"] = ", ".join(f"{name}={value}" for name, value in selected.items())
        if flat.any():
            words["constant_genes"] = ", ".join(np.asarray(spots.genes)[flat].tolist())
        return replace(row, env={**row.env, **words}) if words else row


def _cells(alike: Sequence[RowCells]) -> list[Cell]:
    return [cell for one in alike for cell in one.cells]


def _key(alike: Sequence[RowCells]) -> str:
    """The work on a row of the table, with whichever heads."""
    cell, variant = alike[0].cells[0], alike[0].row.variant
    return work_key(replace(cell, head="", inputs={}), f"{variant.label} {variant.control}")
