"""From per-spot retrieval values to means, intervals and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spade_bench.encoders.spade.pretraining.validation.bootstrap import interval, resampled_means
from spade_bench.encoders.spade.pretraining.validation.partnerranks import DIRECTIONS, METRICS
from spade_bench.encoders.spade.pretraining.validation.scoring import Retrieval

__all__ = ["summarise_split"]

Summary = dict[str, dict[str, dict[str, Any]]]
_SHAPE = (len(DIRECTIONS), len(METRICS))


def summarise_split(
    spade: Retrieval,
    untrained: Sequence[Retrieval],
    k1: Retrieval | None,
    *,
    draws: int,
    seed: int,
    technologies: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Summarise one held-out split.

    Args:
        spade: The trained model.
        untrained: The same model with fresh heads, one result an initialisation.
        k1: The single-expert control, when there is one.
        draws: Bootstrap draws.
        seed: Seed of the draws.
        technologies: Technology of each sample, where a cohort mixes several.

    Returns:
        `methods` (spade, k1, untrained, chance), `differences` (paired, over the same spots) and
        `samples`, and `technologies` where they are mixed; every figure as direction -> metric ->
        value, low, high (95%).
    """
    methods = {"spade": _with_interval(spade, draws, seed)}
    differences: dict[str, Summary] = {}
    if k1 is not None:
        methods["k1"] = _with_interval(k1, draws, seed)
        differences["spade - k1"] = _difference(spade, k1.values, draws, seed)
    if untrained:
        methods["untrained"] = _over_seeds(spade, untrained)
        mean = np.mean([result.values for result in untrained], axis=0)
        differences["spade - untrained"] = _difference(spade, mean, draws, seed)
        if k1 is not None:
            differences["k1 - untrained"] = _difference(k1, mean, draws, seed)
    chance = np.broadcast_to(spade.chance.mean(axis=1), _SHAPE)
    methods["chance"] = _nest({"value": chance})
    return {
        "n_spots": int(spade.values.shape[2]),
        "n_samples": len(set(spade.sample.tolist())),
        "methods": methods,
        "differences": differences,
        "samples": _apart(spade, k1, spade.sample),
        **_by_technology(spade, k1, technologies or {}),
    }


def _with_interval(result: Retrieval, draws: int, seed: int) -> Summary:
    low, high = _bounds(result.values, result.sample, draws, seed)
    return _nest({"value": result.mean(), "low": low, "high": high})


def _difference(result: Retrieval, other: np.ndarray, draws: int, seed: int) -> Summary:
    """Return the paired difference to `other` (2, 4, N), resampling spots jointly."""
    gap = result.values - other  # (2, 4, N)
    low, high = _bounds(gap, result.sample, draws, seed)
    return _nest({"value": gap.mean(axis=2), "low": low, "high": high})


def _bounds(
    values: np.ndarray, sample: np.ndarray, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    flat = values.reshape(-1, values.shape[2])  # (8, N)
    low, high = interval(resampled_means(flat, sample, draws, seed))
    return low.reshape(_SHAPE), high.reshape(_SHAPE)


def _over_seeds(spade: Retrieval, untrained: Sequence[Retrieval]) -> Summary:
    """Return mean, spread and t interval over initialisations.

    Single initialisations are far apart, because the few leading directions of both modalities
    meet with a random sign; their mean is what chance predicts.
    """
    from scipy import stats

    means = np.stack([result.mean() for result in untrained])  # (S, 2, 4)
    value = means.mean(axis=0)
    fields = {"value": value, "lowest": means.min(axis=0), "highest": means.max(axis=0)}
    if len(means) > 1:
        spread = means.std(axis=0, ddof=1)
        half = stats.t.ppf(0.975, len(means) - 1) * spread / np.sqrt(len(means))
        fields |= {"sd": spread, "low": value - half, "high": value + half}
    as_good = (means >= spade.mean()).sum(axis=0)
    percentile = METRICS.index("mean_percentile")  # smaller is better there
    as_good[:, percentile] = (means <= spade.mean())[..., percentile].sum(axis=0)
    fields["seeds_as_good_as_spade"] = as_good
    fields["seeds"] = np.full(_SHAPE, len(means))
    return _nest(fields)


def _by_technology(
    spade: Retrieval, k1: Retrieval | None, technologies: Mapping[str, str]
) -> dict[str, Any]:
    """The figures of each technology, with its number of samples; empty where there is one."""
    if not technologies:
        return {}
    names = np.array([technologies[str(sample)] for sample in spade.sample], dtype=object)
    rows = _apart(spade, k1, names)
    for name, row in rows.items():
        row["n_samples"] = len(set(spade.sample[names == name].tolist()))
    return {"technologies": rows}


def _apart(spade: Retrieval, k1: Retrieval | None, labels: np.ndarray) -> dict[str, Any]:
    """The figures of the spots of each label, (N,) of them."""
    rows: dict[str, Any] = {}
    for label in dict.fromkeys(labels.tolist()):
        inside = labels == label
        rows[str(label)] = {
            "n_spots": int(inside.sum()),
            "spade": _nest({"value": spade.values[..., inside].mean(axis=2)}),
            "chance": _nest(
                {"value": np.broadcast_to(spade.chance[:, inside].mean(axis=1), _SHAPE)}
            ),
        }
        if k1 is not None:
            rows[str(label)]["k1"] = _nest({"value": k1.values[..., inside].mean(axis=2)})
    return rows


def _nest(fields: Mapping[str, np.ndarray]) -> Summary:
    """Return direction -> metric -> field from (2, 4) arrays."""
    return {
        direction: {
            metric: {name: array[d, m].item() for name, array in fields.items()}
            for m, metric in enumerate(METRICS)
        }
        for d, direction in enumerate(DIRECTIONS)
    }
