"""Validate a SPADE model on held-out samples: validation.json, a printed table and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from spade_bench import console, files
from spade_bench.encoders.spade.pretraining.validation import validationtables as tables
from spade_bench.encoders.spade.pretraining.validation.describe import (
    expert_summary,
    read_training,
    routing_summary,
    target_summary,
)
from spade_bench.encoders.spade.pretraining.validation.plots import plot_losses, plot_percentiles
from spade_bench.encoders.spade.pretraining.validation.scoring import (
    Retrieval,
    dense_rows,
    retrieval,
)
from spade_bench.encoders.spade.pretraining.validation.summary import summarise_split
from spade_bench.errors import DataError
from spade_bench.spatial.instruments.technologies import mixed_technologies

if TYPE_CHECKING:
    import pandas as pd

    from spade_bench.encoders.spade.model import SpadeModel

__all__ = ["SCHEMA", "Spots", "validate"]

SCHEMA = "spade-bench/validation/1"
MAX_SPOTS = 5_000  # a Visium slide has 4,992 spots; denser samples are drawn down to this
_UNTRAINED_SEED = 1_000_003  # far from the seeds of real runs
SCORING = (
    "s(i, j) = sum over experts e of w_e(image i) <head_image_e(x_i), head_spot_e(g_j)>; "
    "candidates are the spots of the same held-out sample, seen by the experts of the query image; "
    "percentile 0 is best, 0.5 is chance; intervals are 95% bootstraps over spots within samples, "
    "so they do not cover the variation between samples; the test split chose nothing and is "
    "reported where there is one; else the val split is, which also chose the epoch that each "
    "expert keeps"
)


class Spots(Protocol):
    """The prepared spots, as read from `spots.h5ad`."""

    @property
    def features(self) -> Any:
        """(N, D) image features."""

    @property
    def expression(self) -> Any:
        """(N, G) expression, dense or CSR."""

    @property
    def obs(self) -> pd.DataFrame:
        """One row a spot: `sample`, `organ`, `split`, `expert`."""

    @property
    def genes(self) -> Sequence[str]:
        """Names of the G genes."""


def validate(
    model: SpadeModel,
    spots: Spots,
    *,
    k1_model: SpadeModel | None = None,
    out: Path | None = None,
    splits: Sequence[str] | None = None,
    blocks: bool = False,
    untrained_seeds: int = 20,
    draws: int = 1000,
    seed: int = 0,
    batch_size: int = 128,
) -> dict[str, Any]:
    """Measure a model on its held-out samples and describe it.

    Args:
        model: The trained model, with expression heads.
        spots: The prepared spots it was trained on, held-out splits included.
        k1_model: The single-expert control trained on the same split.
        out: The model's folder: `training.csv` is read from it, `validation.json` and the plots
            are written to it. None writes nothing.
        splits: Held-out splits to score; those without spots are left out. None scores the test
            split, and the val split, which chose the epochs, only where there is no other.
        blocks: Whether blocks of sections are held out that otherwise train.
        untrained_seeds: Initialisations scored as the untrained control.
        draws: Bootstrap draws.
        seed: Seed of draws and subsamples.
        batch_size: Spots a training batch, for the soft targets.

    Returns:
        What `validation.json` holds.
    """
    obs = spots.obs.reset_index(drop=True)
    present = [s for s in splits or ("test", "val") if bool((obs["split"] == s).any())]
    present = present[:1] if splits is None else present
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "scoring": SCORING,
        "n_experts": model.n_experts,
        "tau": model.tau,
        "bootstrap": {"draws": draws, "seed": seed},
        "splits": {},
    }
    technologies = _technologies(obs)
    runs: dict[str, _Runs] = {}
    missing = sorted(set(range(model.n_experts)) - set(model.heads))
    if missing:
        report["not_scored"] = f"experts {', '.join(map(str, missing))} are not trained"
        present = []
    total = len(present) * (1 + (k1_model is not None) + untrained_seeds)
    with console.progress("validation", total=total, unit="models") as bar:
        for split in present:
            held_out, notes = _held_out(spots, obs, split, seed, blocks=blocks)
            report["splits"][split] = notes
            if held_out:
                scores = _score(
                    model, k1_model, held_out, spots.genes, untrained_seeds=untrained_seeds, bar=bar
                )
                report["splits"][split] = notes | summarise_split(
                    *scores, draws=draws, seed=seed, technologies=technologies
                )
                runs[split] = scores
    report |= _descriptions(model, spots, obs, out, batch_size=batch_size, seed=seed)
    if out is not None:
        _write(out, report, runs)
    tables.print_report(report)
    return report


def _technologies(obs: pd.DataFrame) -> dict[str, str]:
    """Technology of each sample; empty where all are of one, or older spots do not say."""
    if "technology" not in obs:
        return {}
    first = obs.drop_duplicates("sample")
    told = first["technology"].astype(object).where(first["technology"].notna(), None)
    return mixed_technologies(dict(zip(first["sample"].astype(str), told, strict=True)))


_Runs = tuple[Retrieval, list[Retrieval], Retrieval | None]


def _write(out: Path, report: Mapping[str, Any], runs: Mapping[str, _Runs]) -> None:
    """Write the report and its pictures into the model's folder."""
    files.write_json(out / "validation.json", report)
    plot_losses(out / "losses.png", report["experts"])
    for split, (spade, untrained, k1) in runs.items():
        path = out / f"percentiles_{split}.png"
        named = {"SPADE": spade} | ({} if k1 is None else {"K = 1": k1})
        plot_percentiles(path, named, untrained, tables.caption(report, split))


def _score(
    model: SpadeModel,
    k1_model: SpadeModel | None,
    held_out: Sequence[tuple[str, np.ndarray, Any]],
    genes: Sequence[str],
    *,
    untrained_seeds: int,
    bar: console.Progress,
) -> _Runs:
    """Return the retrieval of the model, of its untrained twins and of the K = 1 control."""
    spade = retrieval(model, held_out, genes)
    bar.advance(note="SPADE")
    k1 = None
    if k1_model is not None:
        k1 = retrieval(k1_model, held_out, genes)
        bar.advance(note="K = 1")
    untrained: list[Retrieval] = []
    for number in range(untrained_seeds):
        twin = untrained_twin(model, _UNTRAINED_SEED + number)
        untrained.append(retrieval(twin, held_out, genes))
        bar.advance(note=f"untrained {number}")
    return spade, untrained, k1


def _held_out(
    spots: Spots, obs: pd.DataFrame, split: str, seed: int, *, blocks: bool
) -> tuple[list[tuple[str, np.ndarray, Any]], dict[str, Any]]:
    """Return (sample, features, expression) of each scorable sample, and what was left out.

    Raises:
        DataError: When a sample lies in this split and in training, and no block is held out.
    """
    samples: list[tuple[str, np.ndarray, Any]] = []
    notes: dict[str, Any] = {"left_out": [], "drawn_down": {}}
    notes |= {"chose_epochs": split == "val", "blocks": False}
    rng = np.random.default_rng(seed)
    train = set(obs.loc[obs["split"] == "train", "sample"])
    for sample in sorted(set(obs.loc[obs["split"] == split, "sample"])):
        notes["blocks"] |= sample in train
        if sample in train and not blocks:
            raise DataError(
                f"sample '{sample}' is in '{split}' and in training", where="validation",
                fix="Prepare the spots again; a sample belongs to one split",
            )  # fmt: skip
        rows = np.flatnonzero((obs["split"] == split) & (obs["sample"] == sample))
        if len(rows) < 2:
            notes["left_out"].append(str(sample))
            continue
        if len(rows) > MAX_SPOTS:
            notes["drawn_down"][str(sample)] = [len(rows), MAX_SPOTS]
            rows = np.sort(rng.choice(rows, MAX_SPOTS, replace=False))
        samples.append((str(sample), dense_rows(spots.features, rows), spots.expression[rows]))
    return samples, notes


def untrained_twin(model: SpadeModel, seed: int) -> SpadeModel:
    """Return the same model, centroids and all, with freshly drawn heads."""
    from spade_bench.encoders.spade.experts import ExpertPair
    from spade_bench.encoders.spade.model import SpadeModel

    sizes = (model.in_dim, len(model.genes), model.dim)
    pairs = {e: ExpertPair.create(*sizes, seed=seed, expert=e) for e in model.heads}
    return SpadeModel(model.info, model.experts, model.genes, pairs, device=model.device)


def _descriptions(
    model: SpadeModel,
    spots: Spots,
    obs: pd.DataFrame,
    out: Path | None,
    *,
    batch_size: int,
    seed: int,
) -> dict[str, Any]:
    """Return experts, routing and soft targets."""
    log = None if out is None else out / "training.csv"
    training = read_training(log) if log is not None and log.exists() else []
    routing = {
        split: routing_summary(model, spots.features, np.flatnonzero(obs["split"] == split))
        for split in ("train", "val", "test")
        if bool((obs["split"] == split).any())
    }
    targets = target_summary(
        model,
        spots.features,
        spots.expression,
        spots.genes,
        obs,
        temperature=model.info.temperature,
        batch_size=batch_size,
        seed=seed,
    )
    experts = expert_summary(obs, model.n_experts, training)
    return {"experts": experts, "routing": routing, "soft_targets": targets}
