"""What a head of expression is asked to do: one fold, its settings, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from spade_bench import config
from spade_bench.errors import ConfigError
from spade_bench.registry import expression_heads
from spade_bench.types import HeadCard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["GENES_OF", "TARGETS", "JointSpace", "Solve", "SpotFit",
           "SpotHead", "SpotOptions", "SpotTask", "check_target", "spot_head"]  # fmt: skip

TARGETS = ("log1p", "lognorm")
"""What is predicted: log1p of the counts, or of the counts scaled to a total of 10,000 a spot."""
GENES_OF = ("task", "training")
"""Where genes come from: the task's own list where it has one, or the training sections."""


class JointSpace(Protocol):
    """Where an encoder places patches and the expression of spots together."""

    def nearest(self, k: int) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
        """Return the training spots nearest to each test patch, nearest first.

        Args:
            k: Spots wanted; all of them where there are fewer.

        Returns:
            Scores (m, k), higher is nearer, at most 1; positions (m, k) of the training spots.
        """


@dataclass(frozen=True)
class SpotTask:
    """One fold. What was measured in the test spots is no part of it, so no head can see it.

    Attributes:
        train: Features of the training spots, (n, D).
        target: Expression of them, (n, G).
        section: Section of each training spot, (n,).
        patient: Patient of each training spot, (n,).
        coords: Centre of each training spot in its section, (n, 2).
        test: Features of the test spots, (m, D).
        n_test: Number of test spots m, also where a head takes no features.
        seed: Seed of everything random.
        joint: The encoder's space of images and expression; None where it has none.
    """

    train: NDArray[np.float32]
    target: NDArray[np.float32]
    section: NDArray[np.int64]
    patient: NDArray[np.int64]
    coords: NDArray[np.float64]
    test: NDArray[np.float32]
    n_test: int
    seed: int = 0
    joint: JointSpace | None = None


@dataclass(frozen=True)
class SpotFit:
    """What a head answered.

    Attributes:
        predictions: Expression of the test spots, (m, G).
        selected: Hyperparameters that were chosen on training spots; empty where none were.
    """

    predictions: Floats
    selected: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SpotOptions:
    """How a head of expression shall be made.

    Attributes:
        params: Settings that replace the defaults of its card.
    """

    params: Mapping[str, Any] = field(default_factory=dict)


Solve = Callable[[SpotTask, Any], SpotFit]
Needs = Literal["features", "joint", "nothing"]


class SpotHead:
    """A head of expression.

    Attributes:
        card: Its card.
        params: All its settings. Every head has `target`, `genes` and `n_genes`.
        needs: What it predicts from: `features` of the spots, the `joint` space of an encoder, or
            `nothing`.
    """

    def __init__(
        self,
        card: HeadCard,
        settings: type[Any],
        solve: Solve,
        needs: Needs,
        options: SpotOptions,
    ) -> None:
        """Check the settings.

        Raises:
            ConfigError: When one is unknown or out of range.
        """
        self.card, self.needs = card, needs
        self._settings = config.build(settings, options.params, f"head {card.name}")
        self._solve = solve
        self.params: Mapping[str, Any] = asdict(self._settings)

    def predict(self, task: SpotTask) -> SpotFit:
        """Fit one fold and predict its test spots.

        What `needs` does not name is empty in ``task``.
        """
        return self._solve(task, self._settings)


def spot_head(
    card: HeadCard, settings: type[Any], needs: Needs = "features"
) -> Callable[[Solve], Solve]:
    """Register the decorated function as a head of expression.

    Args:
        card: The head's card.
        settings: Frozen dataclass of its settings, with `target`, `genes` and `n_genes`.
        needs: What it predicts from; see `SpotHead`.

    Returns:
        A decorator of ``solve(task, settings)``.
    """

    def decorate(solve: Solve) -> Solve:
        expression_heads.add(card, lambda options: SpotHead(card, settings, solve, needs, options))
        return solve

    return decorate


def check_target(settings: Any) -> None:
    """Refuse settings that every head of expression has, where they are out of range.

    Raises:
        ConfigError: Naming the setting and what it may be.
    """
    for name, known in (("target", TARGETS), ("genes", GENES_OF)):
        if getattr(settings, name) not in known:
            raise ConfigError(
                f"{name} is '{getattr(settings, name)}'", fix=f"Use {' or '.join(known)}"
            )
    config.check_ranges(settings, {"n_genes": (1, float("inf"))}, "")
