"""How transcripts or bins are pooled into pseudo-spots, as it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spade_bench.errors import UserError
from spade_bench.spatial.pseudospots import SpotGrid

__all__ = ["Pooling"]


@dataclass(frozen=True)
class Pooling:
    """Size and lattice of pseudo-spots; None takes what suits the technology.

    Attributes:
        spot_um: Width of a spot in µm: 100 for Xenium, 112 for Visium HD by default.
        shape: `square` or `hexagonal`.
        pitch_um: Distance between centres in µm; `spot_um` when None, which leaves no gaps.
        min_qv: Least quality value of a transcript of Xenium.
        bin_um: Which bins of Visium HD are pooled; None takes the coarsest that divide a spot.
    """

    spot_um: float | None = None
    shape: Literal["square", "hexagonal"] = "square"
    pitch_um: float | None = None
    min_qv: float = 20.0
    bin_um: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no lattice.

        Raises:
            UserError: Naming the setting.
        """
        self.grid(self.pitch_um if self.spot_um is None and self.pitch_um else 100.0)
        if not 0 <= self.min_qv <= 40:
            raise UserError(
                f"quality values lie between 0 and 40, not at {self.min_qv:g}", where="min_qv"
            )

    def grid(self, default_um: float) -> SpotGrid:
        """Return the lattice; spots are ``default_um`` wide unless a width is asked for."""
        spot = default_um if self.spot_um is None else self.spot_um
        return SpotGrid(spot, self.shape, self.pitch_um)
