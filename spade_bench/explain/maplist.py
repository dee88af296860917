"""The maps of several slides as one object."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, overload

from spade_bench.errors import UserError
from spade_bench.files import file_name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from spade_bench.explain.slidemap import SlideMap

__all__ = ["Maps"]


class Maps(Sequence["SlideMap"]):
    """Maps of slides, as a list.

    Args:
        maps: The maps.
    """

    def __init__(self, maps: Iterable[SlideMap]) -> None:
        self._maps = tuple(maps)

    def __repr__(self) -> str:
        slides = ", ".join(dict.fromkeys(one.slide_id for one in self._maps[:5]))
        more = ", ..." if len(self) > 5 else ""
        return f"<Maps: {len(self)} maps of {slides}{more}>"

    def __len__(self) -> int:
        return len(self._maps)

    def __iter__(self) -> Iterator[SlideMap]:
        return iter(self._maps)

    @overload
    def __getitem__(self, at: int | str) -> SlideMap: ...

    @overload
    def __getitem__(self, at: slice) -> Maps: ...

    def __getitem__(self, at: int | str | slice) -> SlideMap | Maps:
        """Return the map at a position, several, or the first one of a slide by its name.

        Raises:
            UserError: When there is no map of the slide.
        """
        if isinstance(at, slice):
            return Maps(self._maps[at])
        if isinstance(at, int):
            return self._maps[at]
        for one in self._maps:
            if one.slide_id == at:
                return one
        raise UserError(f"there is no map of slide '{at}'", fix=f"There are {self!r}")

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row per patch of every slide, with the encoder and the case."""
        import pandas as pd

        parts = []
        for one in self._maps:
            part = one.to_dataframe()
            part.insert(0, "encoder", one.encoder)
            part.insert(1, "case_id", one.case_id)
            parts.append(part)
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def agreement(self) -> pd.DataFrame:
        """Return how much two encoders agree: a row per slide that both have mapped.

        Columns as in `Agreement`: `slide_id`, `case_id`, `a`, `b`, `spearman`, `patches`,
        `same_grid`.
        """
        import pandas as pd

        from spade_bench.explain.agreement import Agreement, agreement

        of_slide: dict[str, list[SlideMap]] = {}
        for one in self._maps:
            of_slide.setdefault(one.slide_id, []).append(one)
        rows = [
            agreement(maps[0], other).as_dict() for maps in of_slide.values() for other in maps[1:]
        ]
        return pd.DataFrame(rows, columns=[field.name for field in fields(Agreement)])

    def plot(self) -> Figure:
        """Draw the only map.

        Raises:
            UserError: When there are several.
        """
        if len(self) != 1:
            raise UserError(f"{len(self)} maps cannot be one picture", fix="Draw maps[0].plot()")
        return self._maps[0].plot()

    def to_geojson(self, folder: str | Path) -> list[Path]:
        """Write a file per map into a folder, `SLIDE.geojson`, of several encoders into folders.

        Returns:
            The files.
        """
        several = len({one.encoder for one in self._maps}) > 1
        out = []
        for one in self._maps:
            place = Path(folder) / file_name(one.encoder) if several else Path(folder)
            out.append(one.to_geojson(place / f"{file_name(one.slide_id)}.geojson"))
        return out
