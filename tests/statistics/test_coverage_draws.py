"""Simulations of what reports print: means over draws on fixed test cases, and their differences.

Scores are case + draw + chance, so draws and cases are crossed. As in ``test_coverage``, checks
allow three binomial standard errors and, stated, the defect of an approximation: with 10 draws and
100 cases intervals from few draws and percentiles are up to three points off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import norm

from spade_bench.statistics.delong_draws import auroc_influence, delong_over_draws
from spade_bench.statistics.draws import resampled
from spade_bench.statistics.intervals import case_weights, interval, paired_interval

LABEL = np.repeat([0, 1], 50)
DRAWS, REPEATS = 10, 120
DEFECT = 0.03


@dataclass(frozen=True)
class Encoder:
    """Its signal and how much the signal changes from draw to draw."""

    signal: float
    wobble: float

    def auroc(self) -> float:
        """Expected AUROC, by Gauss-Hermite quadrature over the wobble."""
        at, weight = np.polynomial.hermite_e.hermegauss(60)
        values = norm.cdf((self.signal + self.wobble * at) * 2 / np.sqrt(4))
        return float((values * weight).sum() / weight.sum())

    def draws(self, rng: np.random.Generator, case: np.ndarray) -> list[np.ndarray]:
        """(n, 2) scores of each draw."""
        out = []
        for _ in range(DRAWS):
            signal = self.signal + self.wobble * rng.normal()
            score = case + signal * (2 * LABEL - 1) + rng.normal(size=len(LABEL))
            out.append(np.stack([-score, score], axis=1))
        return out


def _near(hits: list[bool], nominal: float) -> None:
    rate = float(np.mean(hits))
    error = 3 * np.sqrt(nominal * (1 - nominal) / len(hits))
    assert abs(rate - nominal) <= error + DEFECT, f"{rate:.3f}, not {nominal} +- {error:.3f}"


def _influence(draws: list[np.ndarray]) -> np.ndarray:
    found = [auroc_influence(LABEL, scores) for scores in draws]
    return np.stack([one[1] for one in found if one is not None])


@pytest.mark.parametrize("wobble", [0.05, 0.5])
def test_intervals_cover_and_null_tests_reject_as_they_say(wobble: float) -> None:
    rng = np.random.default_rng([20, int(100 * wobble)])
    strong, weak = Encoder(0.6, wobble), Encoder(0.3, wobble)
    one, difference = strong.auroc(), strong.auroc() - weak.auroc()
    single, boot, delong, boot_null, delong_null = [], [], [], [], []
    for seed in range(REPEATS):
        weights = case_weights(LABEL, 200, seed)
        case = rng.normal(size=len(LABEL))
        draws = [encoder.draws(rng, case) for encoder in (strong, weak, strong)]
        a, b, again = (resampled("auroc", LABEL, own, weights) for own in draws)
        first, second, third = (_influence(own) for own in draws)
        alone = interval(*a, seed=seed)
        single.append(alone.low <= one <= alone.high)
        for other, moved, covered, rejected in (
            (b, second, (boot, delong), None),
            (again, third, None, (boot_null, delong_null)),
        ):
            found = (
                paired_interval(a, other, seed),
                delong_over_draws(LABEL, a[0] - other[0], first - moved),
            )
            for i, got in enumerate(found):
                assert got is not None
                assert got.p is not None
                if covered is not None:
                    covered[i].append(got.low <= difference <= got.high)
                if rejected is not None:
                    rejected[i].append(got.p < 0.05)
    for hits in (single, boot, delong):
        _near(hits, 0.95)
    for hits in (boot_null, delong_null):
        _near(hits, 0.05)
