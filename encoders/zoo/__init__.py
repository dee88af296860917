"""The zoo: one row of a table for each published patch encoder, and adapters for whole libraries.

Every table lists rows with a card and an architecture. To add an encoder, write a row into the
table of its group; the tests in `tests/encoders/test_zoo_*.py` run over every row. Importing this
package loads no heavy library.

Source: the authors' repositories and model cards, compared with TRIDENT, LazySlide, slide2vec,
STAMP, eva, thunder, HEST-bench and plismbench; where they disagree, the card's notes say how.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from spade_bench.encoders.zoo import (
    _aignostics,
    _bioptimus,
    _kaiko,
    _language,
    _mahmood,
    _natural,
    _omics,
    _others,
    _owkin,
    _paige,
)
from spade_bench.encoders.zoo.entry import Entry
from spade_bench.registry import encoders
from spade_bench.types import EncoderCard, LoadOptions

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ENTRIES"]

_TABLES = (
    _mahmood,
    _paige,
    _bioptimus,
    _kaiko,
    _owkin,
    _others,
    _language,
    _omics,
    _aignostics,
    _natural,
)

ENTRIES: dict[str, Entry] = {row.card.name: row for table in _TABLES for row in table.ENTRIES}


def _make(name: str, options: LoadOptions) -> Any:
    from spade_bench.encoders.zoo._load import load

    return load(ENTRIES[name], options)


def _adapter(module: str, rest: str) -> tuple[EncoderCard, Callable[..., Any]]:
    import importlib

    adapter = importlib.import_module(f"spade_bench.encoders.zoo.{module}")
    resolved: tuple[EncoderCard, Callable[..., Any]] = adapter.resolve(rest)
    return resolved


for _name, _row in ENTRIES.items():
    encoders.add(_row.card, partial(_make, _name))
for _prefix in ("timm", "hf", "lazyslide"):
    encoders.on_prefix(_prefix, partial(_adapter, f"_any_{_prefix}"))
