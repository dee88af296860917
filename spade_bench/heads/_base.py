"""What a head is asked to do: jobs over the same bags, hyperparameters and memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

from spade_bench.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CPU_MEMORY", "Fit", "HeadOptions", "grid_points", "parse_memory"]

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
CPU_MEMORY = 4 << 30  # a constant, so that results do not depend on the machine


@dataclass(frozen=True)
class Fit:
    """One training job. Test targets are not part of it, so no head can see them.

    Attributes:
        train: (n,) positions of the training cases in the bags.
        target: Class index of each training case, (n,) int; for regression its value, (n,) float;
            for survival (n, 2) float with the event (1 or 0) and the days.
        test: (m,) positions of the cases to predict.
        seed: Seed of initialisation and dropout.
        params: Hyperparameters that replace the head's own in this fit: a point of a grid.
        tune: (t,) positions of the cases on which training may stop early; None trains to the
            end. They never overlap with `test` unless predictions on them are what is wanted.
        tune_target: Targets of `tune`, like `target`.
        order: Seed of the order in which cases are shown. Fits that share it meet at the same
            bag, which is then read once for all of them; so leave it alone across folds, draws
            and grid points.
    """

    train: NDArray[np.int64]
    target: NDArray[Any]
    test: NDArray[np.int64]
    seed: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)
    tune: NDArray[np.int64] | None = None
    tune_target: NDArray[Any] | None = None
    order: int = 0


@dataclass(frozen=True)
class HeadOptions:
    """How a head shall be made.

    Attributes:
        device: `auto`, `cpu` or `cuda[:n]`.
        params: Hyperparameters that replace the defaults of its card.
        memory: Bytes that training may take besides cached bags, as a number or like `4GB`; None
            for a share of what the device has. Bounds how many fits train side by side and never
            changes the numbers.
    """

    device: str = "cpu"
    params: Mapping[str, Any] = field(default_factory=dict)
    memory: int | str | None = None


def grid_points(grid: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield every combination of a grid as `Fit.params`, the last name varying fastest."""
    for values in product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def parse_memory(text: int | str) -> int:
    """Turn `4GB`, `512 MB` or a number of bytes into bytes.

    Raises:
        ConfigError: When it is not an amount of memory above zero.
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kmgt]?)i?b?\s*", str(text).lower())
    size = int(float(found[1]) * UNITS[found[2]]) if found else 0
    if size < 1:
        raise ConfigError(f"'{text}' is not an amount of memory", fix="Write it like 4GB or 512MB")
    return size
