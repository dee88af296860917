"""How a TANGLE model standardises expression; stored with it, so that new cases scale alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["GeneScale"]


@dataclass(frozen=True)
class GeneScale:
    """What turns a table's values into the expression tower's input.

    Attributes:
        genes: Names of the kept genes, G.
        mean: Of the training cases after the log, (G,).
        std: Likewise, (G,).
    """

    genes: tuple[str, ...]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
