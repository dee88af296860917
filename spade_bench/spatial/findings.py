"""What the checks of paired data found: always a count, always a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Finding"]


@dataclass(frozen=True)
class Finding:
    """One thing a check found in one sample.

    Attributes:
        kind: Machine name, for example `"log-normalised"` or `"spots-off-image"`.
        count: How many items (spots, genes, barcodes) it concerns.
        total: Out of how many.
        text: The sentence shown to the user.
        fatal: The sample cannot be used and is dropped for this reason.
    """

    kind: str
    count: int
    total: int
    text: str
    fatal: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Finding:
        """The inverse of `to_dict`."""
        return cls(
            kind=str(fields["kind"]),
            count=int(fields["count"]),
            total=int(fields["total"]),
            text=str(fields["text"]),
            fatal=bool(fields["fatal"]),
        )
