"""Checks one head of expression against the contract that runs rely on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import spade_bench.registry as registries
from spade_bench.doctor.slidecontract import Finding, guarded
from spade_bench.errors import ConfigError, SpadeBenchError
from spade_bench.heads.spots import SpotHead, SpotOptions, SpotTask
from spade_bench.plugins import contained
from spade_bench.types import HeadCard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["check_spot_head"]

_SECTIONS, _SPOTS, _DIM, _GENES, _TESTED = 4, 40, 8, 5, 24
_TOLERANCE = 1e-3  # of single precision, relative to the largest prediction


class _Near:
    """A space of images and expression in which patch i is nearest to spot i."""

    def __init__(self, patches: NDArray[np.int64], n: int) -> None:
        self._patches, self._n = patches, n

    def nearest(self, k: int) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
        import numpy as np

        index = (self._patches[:, None] + np.arange(min(k, self._n))) % self._n  # (m, k)
        return np.linspace(1.0, 0.5, index.shape[1])[None].repeat(len(index), axis=0), index


def check_spot_head(name: str) -> list[Finding]:
    """Check a head's card, then fit it on made-up spots and check what it answers.

    Args:
        name: Registry name.

    Returns:
        The findings, in the order of the checks.

    Raises:
        PluginError: When the name is not registered.
    """
    plugin = registries.expression_heads.get(name)
    return list(guarded(plugin, _conduct(plugin)))


def _conduct(plugin: registries.Plugin[HeadCard]) -> Iterator[Finding]:
    head: SpotHead = plugin.load(SpotOptions())
    yield _card(head)
    yield _refusal(plugin.name)
    for check in (_shape, _determinism, _together):
        try:
            with contained(f"head '{plugin.name}'"):
                found = list(check(head, _task()))
        except SpadeBenchError as error:
            found = [Finding(check.__name__.strip("_"), "fail", str(error))]
        yield from found


def _task() -> SpotTask:
    """A fold whose genes follow the features."""
    import numpy as np

    rng = np.random.default_rng(0)
    n = _SECTIONS * _SPOTS
    x = rng.normal(size=(n, _DIM)).astype(np.float32)
    y = np.maximum(x @ rng.normal(size=(_DIM, _GENES)) + 2, 0).astype(np.float32)
    section = np.repeat(np.arange(_SECTIONS), _SPOTS)
    return SpotTask(
        train=x,
        target=y,
        section=section,
        patient=section // 2,
        coords=rng.uniform(0, 100, (n, 2)),
        test=rng.normal(size=(_TESTED, _DIM)).astype(np.float32),
        n_test=_TESTED,
        joint=_Near(np.arange(_TESTED), n),
    )


def _card(head: SpotHead) -> Finding:
    lacking = [
        word for word in ("description", "kinds", "defaults") if not getattr(head.card, word)
    ]
    settings = [word for word in ("target", "genes", "n_genes") if word not in head.params]
    if dict(head.params) != dict(head.card.defaults):
        settings.append("the defaults that its card names")
    problems = lacking + settings
    return _finding(
        "card", not problems, f"lacks {', '.join(problems)}" if problems else "complete"
    )


def _refusal(name: str) -> Finding:
    """A misspelt setting must not be passed over."""
    try:
        registries.expression_heads.get(name).load(SpotOptions({"no_such_setting": 1}))
    except ConfigError:
        return Finding("unknown settings", "pass", "are refused")
    return Finding("unknown settings", "fail", "are taken without a word")


def _shape(head: SpotHead, task: SpotTask) -> Iterator[Finding]:
    import numpy as np

    found = np.asarray(head.predict(task).predictions)
    fits = found.shape == (_TESTED, _GENES)
    yield _finding("shape", fits, f"{found.shape} for {_TESTED} spots and {_GENES} genes")
    yield _finding("numbers", bool(np.isfinite(found).all()), "finite")


def _determinism(head: SpotHead, task: SpotTask) -> Iterator[Finding]:
    import numpy as np

    first, again = (np.asarray(head.predict(task).predictions) for _ in range(2))
    yield _finding("determinism", bool((first == again).all()), "the same seed, the same numbers")


def _together(head: SpotHead, task: SpotTask) -> Iterator[Finding]:
    """What is predicted of a spot must not depend on which other spots are tested."""
    import numpy as np

    half = _TESTED // 2
    n = len(task.train)
    few = replace(task, test=task.test[:half], n_test=half, joint=_Near(np.arange(half), n))
    whole, part = (np.asarray(head.predict(one).predictions) for one in (task, few))
    apart = float(np.abs(whole[:half] - part).max() / max(1e-12, float(np.abs(whole).max())))
    yield _finding("independence of other test spots", apart < _TOLERANCE, f"{apart:.1e} apart")


def _finding(check: str, good: bool, detail: str) -> Finding:
    return Finding(check, "pass" if good else "fail", detail)
