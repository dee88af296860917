"""Cells: encoder x head x episode, their identity and their flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from spade_bench.cohorts.contamination import contamination
from spade_bench.cohorts.episodes import episode_hash
from spade_bench.evaluation.controls import n_permutations
from spade_bench.evaluation.taskpreparation import PreparedTask
from spade_bench.evaluation.variants import Variant
from spade_bench.files import hash_obj
from spade_bench.heads import Head
from spade_bench.heads.spots import SpotHead
from spade_bench.results import SCHEMA
from spade_bench.types import Episode

__all__ = ["Cell", "VariantCells", "fit_seed", "head_words", "shuffle_seed", "variant_cells"]


@dataclass(frozen=True)
class Cell:
    """One cell of the results.

    Attributes:
        encoder: Label of the encoder.
        task: Name of the task.
        head: Head name.
        seed: Seed of the run.
        episode: The episode.
        inputs: Hashes of what goes in, as stored in the row.
        flags: Flags of the row.
        control: Name of the control that it is; empty for an encoder itself.
        control_of: Label of the encoder beside which the control stands.
        identity: Digest of what made the features; empty where the files do not say.
        permutation: Which shuffle of the training labels it is, from 0, where they are shuffled.
        members: Cells of the fold models whose predictions this cell averages; empty when it is
            fitted itself.
        about: The hashed cases, splits and settings in words, for tables that tell rows apart, and
            what a control is that its encoder brought.
    """

    encoder: str
    task: str
    head: str
    seed: int
    episode: Episode
    inputs: Mapping[str, Any]
    flags: tuple[str, ...]
    control: str = ""
    control_of: str = ""
    identity: str = ""
    permutation: int = 0
    members: tuple[Cell, ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """Hash of what determines the numbers, and of the names under which they stand."""
        episode = self.episode
        place = [episode.protocol, episode.k_shot, episode.draw, episode.fold]
        # Whether a task has a card says nothing about the numbers; older rows keep their ids.
        flags = sorted(flag for flag in self.flags if flag != "unregistered")
        names = [self.encoder, self.task, self.head, flags]
        return hash_obj([SCHEMA, names, place, self.seed, self.inputs])


@dataclass(frozen=True)
class VariantCells:
    """All cells of one row of the table: an encoder or control with one head.

    Attributes:
        variant: The encoder or control.
        head: Head name.
        cells: One cell an episode; with permuted labels one for each episode and shuffle.
    """

    variant: Variant
    head: str
    cells: tuple[Cell, ...]

    @property
    def place(self) -> tuple[str, str, str]:
        """What tells it from all others of its task."""
        return self.variant.label, self.variant.control, self.head


def variant_cells(
    prepared: PreparedTask,
    heads: Mapping[str, Head],
    seed: int,
    select: Mapping[str, Any],
    permutations: int | None = None,
) -> list[VariantCells]:
    """Return the cells of a task, row by row.

    Args:
        prepared: The task.
        heads: Heads by name.
        seed: Seed of the run.
        select: What determines the choice of hyperparameters, by head; no entry without one.
        permutations: How often permuted labels are shuffled; None leaves it to the head.
    """
    out = []
    for variant in prepared.rows:
        inputs = {**prepared.hashes, "features": prepared.features_hash(variant)}
        if variant.identity:
            inputs["encoder"] = hash_obj(variant.identity)
        if variant.base:
            inputs["base"] = variant.base
        seen = contamination(
            variant.seen, prepared.card, prepared.cohort.simulated, prepared.cohort
        )
        flags = (*variant.flags, *variant.notes, *prepared.flags, *seen)
        described = {"control": variant.description} if variant.description else {}
        for name, head in heads.items():
            with_head = {**inputs, "head": hash_obj(head.params)}
            if name in select:
                with_head["select"] = hash_obj(select[name])
            words = {**prepared.about, **head_words(name, head, select.get(name)), **described}
            cells = [
                Cell(
                    encoder=variant.label,
                    task=prepared.card.name,
                    head=name,
                    seed=seed,
                    episode=episode,
                    inputs={**with_head, "episode": episode_hash(episode), **_shuffle(number)},
                    flags=flags,
                    control=variant.control,
                    control_of=variant.control_of,
                    identity=variant.made_by,
                    about=words,
                    permutation=number,
                )
                for number in range(n_permutations(variant, head, permutations))
                for episode in prepared.episodes
            ]
            out.append(VariantCells(variant, name, tuple(_with_members(cells))))
    return out


def head_words(
    name: str, head: Head | SpotHead, select: Sequence[Any] | None = None
) -> dict[str, str]:
    """Settings of a head that are not its defaults, and how others are chosen."""
    usual = head.card.defaults
    changed = [f"{name}.{k}={v}" for k, v in head.params.items() if k not in usual or usual[k] != v]
    words = {"head": ", ".join(changed) or f"{name} defaults"}
    if select is not None:
        words["choice"] = f"{name} chosen on inner folds by {select[1]}"
    return words


def _shuffle(number: int) -> dict[str, int]:
    """What a row says of its shuffle; of the first nothing, as rows of older versions."""
    return {"permutation": number} if number else {}


def _with_members(cells: Sequence[Cell]) -> list[Cell]:
    """Tell the ensemble of each repeat of cross-validation which fold models it averages."""
    out = []
    for cell in cells:
        place = cell.episode
        if place.protocol == "cv" and place.fold is None:
            members = tuple(
                other
                for other in cells
                if other.episode.fold is not None
                and (other.episode.draw, other.permutation) == (place.draw, cell.permutation)
            )
            # The same cases, dealt to another number of folds, make another ensemble.
            whole = [cell.inputs["episode"], *(other.inputs["episode"] for other in members)]
            cell = replace(  # noqa: PLW2901
                cell,
                members=members,
                flags=(*cell.flags, "ensemble"),
                inputs={**cell.inputs, "episode": hash_obj(whole)},
            )
        out.append(cell)
    return out


def fit_seed(seed: int, episode: Episode) -> int:
    """Seed of a head's fit: the same for every encoder, different for every episode."""
    text = hash_obj([seed, episode.protocol, episode.k_shot, episode.draw, episode.fold])
    return int(text, 16) >> 1  # 63 bits: what torch's generators take


def shuffle_seed(seed: int, permutation: int) -> int:
    """Seed of a shuffle of the training labels of a fit; that of the first is the fit's own."""
    return int(hash_obj([seed, "permutation", permutation]), 16) >> 1 if permutation else seed
