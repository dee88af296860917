"""Find the files of a Space Ranger run, also under the names that repositories give them.

GEO and 10x Genomics' own downloads put the sample before the name and sometimes compress the file:
`GSM123_LUNG1_filtered_feature_bc_matrix.h5`, `LUNG1_tissue_positions_list.csv.gz`, without the
folder `spatial`. A file is taken when it is the only one that ends so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spade_bench.errors import DataError

__all__ = ["OutsFiles", "find_outs_files", "find_positions"]

_MATRIX = ("filtered_feature_bc_matrix.h5",)
_POSITIONS = ("tissue_positions.csv", "tissue_positions_list.csv")
_SCALE = ("scalefactors_json.json",)
_LISTED = 4


@dataclass(frozen=True)
class OutsFiles:
    """The files of one section.

    Attributes:
        matrix: Counts, HDF5, plain or compressed with gzip.
        positions: Table of spot positions.
        scalefactors: Scale factors, or None.
    """

    matrix: Path
    positions: Path
    scalefactors: Path | None


def find_outs_files(outs: Path) -> OutsFiles:
    """Find the matrix, the positions and the scale factors of one section.

    Args:
        outs: The `outs/` folder, the run folder that contains it, or any folder with the files of
            one section.

    Raises:
        DataError: When the matrix or the positions are missing, when two files could be meant, or
            when the files carry the names of different sections.
    """
    folder = _folder(outs)
    matrix = _find(folder, (folder,), _MATRIX)
    if matrix is None:
        raise _missing(folder, (folder,), _MATRIX, ".h5")
    places = (folder / "spatial", folder)
    files = OutsFiles(matrix, find_positions(folder), _find(folder, places, _SCALE))
    _check_one_section(folder, files)
    return files


def find_positions(outs: Path) -> Path:
    """Find the table of spot positions.

    Raises:
        DataError: When there is none, or two could be meant.
    """
    folder = _folder(outs)
    places = (folder / "spatial", folder)
    positions = _find(folder, places, _POSITIONS)
    if positions is None:
        raise _missing(folder, places, _POSITIONS, ".csv", ".csv.gz", ".tsv", ".txt", ".parquet")
    return positions


def _folder(outs: Path) -> Path:
    return outs / "outs" if (outs / "outs").is_dir() else outs


def _files(places: tuple[Path, ...]) -> list[Path]:
    try:
        return sorted(
            path for place in places if place.is_dir() for path in place.iterdir() if path.is_file()
        )
    except OSError as error:
        raise DataError(f"cannot be listed ({error})", where=str(places[-1])) from error


def _find(folder: Path, places: tuple[Path, ...], names: tuple[str, ...]) -> Path | None:
    """The file of this name, else the only one that ends in it.

    Raises:
        DataError: When several end in it.
    """
    for place in places:
        for name in names:
            if (place / name).is_file():
                return place / name
    ending = [path for path in _files(places) if _bare(path).endswith(names)]
    if len(ending) > 1:
        listed = " and ".join(str(path.relative_to(folder)) for path in ending[:_LISTED])
        more = f" and {len(ending) - _LISTED} more" if len(ending) > _LISTED else ""
        raise DataError(
            f"{listed}{more} could each be its {names[-1]}",
            where=str(folder),
            fix="Keep one of them there, or give each section a folder of its own",
        )
    return ending[0] if ending else None


def _bare(path: Path) -> str:
    return path.name.lower().removesuffix(".gz")


def _missing(
    folder: Path, places: tuple[Path, ...], names: tuple[str, ...], *suffixes: str
) -> DataError:
    """Say what is missing, and which files might be it under another name."""
    others = [p.name for p in _files(places) if p.name.lower().endswith(suffixes)]
    what = f"no {' or '.join(names)}"
    fix = "Give Space Ranger's outs/ folder, with its folder spatial"
    if others:
        what += f", only {', '.join(others[:_LISTED])}"
        what += f" and {len(others) - _LISTED} more" if len(others) > _LISTED else ""
        fix = f"If one of them is it, rename it so that its name ends in {names[-1]}"
    return DataError(what, where=str(folder), fix=fix)


def _check_one_section(folder: Path, files: OutsFiles) -> None:
    """Refuse files of two sections: slides share barcodes, so the join would not notice.

    Raises:
        DataError: Naming both files.
    """
    named: dict[str, Path] = {}
    for path, names in (
        (files.matrix, _MATRIX),
        (files.positions, _POSITIONS),
        (files.scalefactors, _SCALE),
    ):
        if path is None:
            continue
        ending = next(name for name in names if _bare(path).endswith(name))
        prefix = _bare(path).removesuffix(ending).rstrip("_-. ")
        prefix = prefix.removesuffix("spatial").rstrip("_-. ")
        if prefix:
            named.setdefault(prefix, path)
    if len(named) > 1:
        listed = " and ".join(str(path.relative_to(folder)) for path in named.values())
        raise DataError(
            f"{listed} are named after different sections",
            where=str(folder),
            fix="If they belong together, rename them to start alike",
        )
