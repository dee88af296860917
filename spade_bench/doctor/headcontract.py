"""Checks one head against the contract that runs and trained models rely on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import spade_bench.registry as registries
from spade_bench.doctor.slidecontract import Finding, guarded
from spade_bench.errors import ConfigError, SpadeBenchError, UserError
from spade_bench.features.casebags import CaseBags
from spade_bench.heads import (
    Fit,
    FittedHead,
    HeadOptions,
    checked_scores,
    fit,
    fit_predict,
    fitting,
    grid_points,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["check_head"]

_CASES, _DIM = 24, 6
_TOLERANCE = 5e-3  # single precision, after some hundred steps
_QUICK = {"epochs": 3, "min_steps": 10}  # of heads that take steps


@dataclass(frozen=True)
class Probe:
    """A head with made-up cases.

    Attributes:
        name: Registry name.
        head: The head.
        features: Bags of different sizes.
        target: Targets of all cases.
        n_outputs: Columns of a prediction.
    """

    name: str
    head: Any
    features: list[NDArray[np.float32]]
    target: NDArray[Any]
    n_outputs: int

    @property
    def probabilities(self) -> bool:
        """Whether it predicts classes."""
        return "classification" in self.head.card.kinds

    def bags(self, change: Callable[[NDArray[Any]], NDArray[Any]] = lambda x: x) -> CaseBags:
        """Bags, each passed through ``change``."""
        return CaseBags(lambda i: change(self.features[i]), len(self.features), _DIM)

    def job(self, seed: int = 0) -> Fit:
        """Train on the first half, test on the second."""
        import numpy as np

        train, test = np.arange(_CASES // 2), np.arange(_CASES // 2, _CASES)
        return Fit(train, self.target[train], test, seed)

    def scores(self, bags: CaseBags, jobs: list[Fit]) -> list[NDArray[np.float64]]:
        """Checked predictions of each job."""
        raw = fit_predict(self.head, bags, jobs, self.n_outputs, name=self.name)
        return [
            checked_scores(
                scores,
                len(job.test),
                self.n_outputs,
                name=self.name,
                probabilities=self.probabilities,
            )
            for job, scores in zip(jobs, raw, strict=True)
        ]


def check_head(name: str, device: str = "cpu") -> list[Finding]:
    """Check a head's card, then fit it on made-up cases and check what it does.

    Args:
        name: Registry name.
        device: Where it trains.

    Returns:
        The findings, in the order of the checks.

    Raises:
        PluginError: When the name is not registered.
    """
    plugin = registries.heads.get(name)
    return [*_card(plugin.card), *guarded(plugin, _conduct(plugin, device))]


def _conduct(plugin: registries.Plugin[Any], device: str) -> Iterator[Finding]:
    """Load the head, fit it and check what it does."""
    name, card = plugin.name, plugin.card
    quick = {key: value for key, value in _QUICK.items() if key in card.defaults}
    probe = _probe(name, plugin.load(HeadOptions(device, quick)))
    yield _refusal(plugin)
    for check in (_shapes, _seed, _order, _together, _one_patch, _fitted):
        try:
            yield from check(probe)
        except SpadeBenchError as error:
            yield Finding(check.__name__.strip("_").replace("_", " "), "fail", str(error))


def _probe(name: str, head: Any) -> Probe:
    import numpy as np

    rng = np.random.default_rng(0)
    label = np.arange(_CASES) % 2
    features = [
        (rng.normal(size=(int(rng.integers(2, 9)), _DIM)) + 1.5 * y).astype(np.float32)
        for y in label
    ]
    if "classification" in head.card.kinds:
        return Probe(name, head, features, label, 2)
    if "regression" in head.card.kinds:
        return Probe(name, head, features, 50 + 10 * label + rng.normal(size=_CASES), 1)
    days = rng.exponential(1000 * np.exp(-1.5 * label)) + 1
    event = (np.arange(_CASES) % 3 > 0).astype(float)
    return Probe(name, head, features, np.stack([event, days], axis=1), 1)


def _card(card: Any) -> Iterator[Finding]:
    good = bool(card.description and card.kinds)
    yield _finding("card", good, "complete" if good else "lacks a description or kinds")
    if not card.grid:
        yield Finding("card: grid", "warn", "empty: --select has nothing to choose from")
    unknown = sorted(set(card.grid) - set(card.defaults))
    if unknown:
        yield Finding("card: grid", "fail", f"names no hyperparameter: {', '.join(unknown)}")


def _refusal(plugin: Any) -> Finding:
    """A misspelt hyperparameter must not be passed over."""
    wrong: Mapping[str, Any] = {"no_such_setting": 1}
    try:
        plugin.load(HeadOptions(params=wrong))
    except ConfigError:
        return Finding("unknown hyperparameters", "pass", "are refused")
    except Exception as error:
        return Finding("unknown hyperparameters", "warn", f"refused by {type(error).__name__}")
    return Finding("unknown hyperparameters", "fail", "are taken without a word")


def _shapes(probe: Probe) -> Iterator[Finding]:
    job = probe.job()
    (scores,) = probe.scores(probe.bags(), [job])
    yield Finding("shape", "pass", f"{len(job.test)} cases -> {scores.shape}, finite")
    if probe.probabilities:
        off = float(abs(scores.sum(axis=1) - 1).max())
        yield _finding("probabilities", off < 1e-5, f"sum to 1 within {off:.1g}")
    points = list(grid_points(probe.head.card.grid))[:2]
    if points and points[0]:
        probe.scores(probe.bags(), [replace(job, params=point) for point in points])
        yield Finding("grid", "pass", "its points can be fitted")


def _seed(probe: Probe) -> Iterator[Finding]:
    import numpy as np

    first, again = (probe.scores(probe.bags(), [probe.job(3)])[0] for _ in range(2))
    same = np.array_equal(first, again)
    yield _finding("determinism", same, "one seed, equal twice" if same else "one seed, differs")


def _order(probe: Probe) -> Iterator[Finding]:
    (straight,) = probe.scores(probe.bags(), [probe.job()])
    (turned,) = probe.scores(probe.bags(lambda x: x[::-1].copy()), [probe.job()])
    off = float(abs(straight - turned).max())
    yield _finding("independence of the patches' order", off <= _TOLERANCE, _apart(off))


def _together(probe: Probe) -> Iterator[Finding]:
    jobs = [probe.job(seed) for seed in range(3)]
    together = probe.scores(probe.bags(), jobs)
    alone = [probe.scores(probe.bags(), [job])[0] for job in jobs]
    off = max(float(abs(a - b).max()) for a, b in zip(together, alone, strict=True))
    yield _finding("independence of fits beside it", off <= _TOLERANCE, _apart(off))
    few = replace(jobs[0], test=jobs[0].test[:1])
    off = float(abs(probe.scores(probe.bags(), [few])[0][0] - alone[0][0]).max())
    yield _finding("independence of other test cases", off <= _TOLERANCE, _apart(off))


def _one_patch(probe: Probe) -> Iterator[Finding]:
    (scores,) = probe.scores(probe.bags(lambda x: x[:1]), [probe.job()])
    yield Finding("bags of one patch", "pass", f"{scores.shape}, finite")


def _fitted(probe: Probe) -> Iterator[Finding]:
    import numpy as np

    if fitting(probe.head) is None:
        yield Finding("fitted object", "warn", "none: it works in `run` only, not in `fit`")
        return
    job, bags = probe.job(), probe.bags()
    (scores,) = probe.scores(bags, [job])
    (fitted,) = fit(probe.head, bags, [job], probe.n_outputs, name=probe.name)
    scored = fitted.predict(bags, job.test.tolist())
    off = float(abs(scored - scores).max()) if scored.shape == scores.shape else float("inf")
    yield _finding("fitted object predicts what `run` scores", off <= 1e-5, _apart(off))
    try:
        weights = fitted.attention(probe.features[0])
        good = weights.shape == (len(probe.features[0]),) and abs(weights.sum() - 1) < 1e-5
        yield _finding("attention", bool(good), f"{weights.shape}, sums to {weights.sum():.6g}")
    except UserError:
        yield Finding("attention", "pass", "none, and it says so")
    yield from _contributions(probe, fitted, job)
    with tempfile.TemporaryDirectory() as folder:
        try:
            fitted.save(Path(folder) / "head")
        except UserError as error:
            yield Finding("save and load", "warn", str(error))
            return
        again = FittedHead.load(Path(folder) / "head")
        same = np.array_equal(again.predict(bags), fitted.predict(bags))
    yield _finding("save and load", same, "predicts the same bits" if same else "differs")


def _contributions(probe: Probe, fitted: FittedHead, job: Fit) -> Iterator[Finding]:
    """What patches add must make up the prediction, and belong to the patches."""
    case = int(job.test[0])
    bag = probe.features[case]
    try:
        parts = fitted.contributions(bag)
    except UserError as error:
        yield Finding("contributions", "pass", f"none, and it says so ({error.what})")
        return
    wanted = len(bag), probe.n_outputs
    if parts.values.shape != wanted:
        yield Finding("contributions", "fail", f"shape {parts.values.shape}, not {wanted}")
        return
    off = float(abs(parts.prediction() - fitted.predict(probe.bags(), [case])[0]).max())
    detail = f"{parts.method}; add up to the prediction within {off:.1g}"
    yield _finding("contributions", off <= 1e-5, detail)
    off = float(abs(fitted.contributions(bag[::-1].copy()).values[::-1] - parts.values).max())
    good = off <= 1e-5
    yield _finding("contributions: follow their patches", good, f"differ by {off:.1g} at most")


def _finding(check: str, good: bool, detail: str) -> Finding:
    return Finding(check, "pass" if good else "fail", detail)


def _apart(off: float) -> str:
    return f"predictions differ by {off:.2g} at most"
