"""Published slide encoders that load with the libraries of this package.

MOOZY is built here; the other models are built by code that lies beside the weights on the hub, so
each asks for `--trust-remote-code`. Importing this package loads no heavy library. What cannot be
loaded with maintained libraries is not here; `docs/ENCODERS.md` says which those are, and why.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from spade_bench.encoders.wholeslide._table import ROWS
from spade_bench.registry import encoders
from spade_bench.types import LoadOptions

if TYPE_CHECKING:
    from spade_bench.encoders.wholeslide._ownercode import HubSlideEncoder

__all__ = ["ROWS"]


def _make(name: str, options: LoadOptions) -> HubSlideEncoder:
    from spade_bench.encoders.wholeslide._ownercode import load

    return load(ROWS[name], options)


for _name, _row in ROWS.items():
    encoders.add(_row.card, partial(_make, _name))
