"""Sections whose expression is predicted: HEST-Bench task folders, HEST-1k layout, manifests, outs.

A HEST-Bench task is a folder with `splits/train_i.csv` and `test_i.csv` (`sample_id`,
`patches_path`, `expr_path`), `patches/`, `adata/` and `var_50genes.json`. Which patient a sample is
of stands in the metadata csv of HEST-1k alone, which is taken where it lies in the task's folder or
in the one above.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spade_bench.cohorts.tabletext import read_dicts
from spade_bench.errors import DataError, name_some
from spade_bench.files import read_json
from spade_bench.spatial import StSample, read_hest, read_manifest, read_spaceranger
from spade_bench.spatial.fields import as_text
from spade_bench.types import TaskCard

__all__ = ["EXPRESSION_METRICS", "HEST", "Sections", "bench_tasks", "hest_card", "hest_folder",
           "is_bench_task", "read_sections"]  # fmt: skip

HEST = "hest:"
"""What the name of a task begins with whose folder of sections follows."""
EXPRESSION_METRICS = ("pearson", "pearson_per_sample", "spearman", "r2", "mae")
_GENES = "var_50genes.json"


@dataclass(frozen=True)
class Sections:
    """The sections of a task of expression.

    Attributes:
        samples: The sections, by name.
        splits: Training and test sections of each published split; empty where there are none.
        genes: The genes that the task names; None where it names none.
    """

    samples: tuple[StSample, ...]
    splits: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()
    genes: tuple[str, ...] | None = None

    @property
    def patient_of(self) -> dict[str, str]:
        """Patient of each section; a section of which nobody knows it is its own."""
        return {one.sample_id: one.patient or one.sample_id for one in self.samples}

    @property
    def nameless(self) -> tuple[str, ...]:
        """Sections of which nobody knows the patient."""
        return tuple(one.sample_id for one in self.samples if one.patient is None)


def hest_folder(name: str, bench_root: Path | None = None) -> Path:
    """Return the place that `hest:PLACE` names, in the folder of the benchmark where one is given.

    Raises:
        DataError: When there is no such place.
    """
    place = Path(name.removeprefix(HEST)).expanduser()
    inside = place if bench_root is None else bench_root.expanduser() / place
    if inside.exists():
        return inside
    if bench_root is not None:
        known = bench_tasks(bench_root)
        fix = f"Use {', '.join(known)}" if known else "Name the folder that holds the task folders"
        raise DataError("no such task of HEST-Bench", where=str(inside), fix=fix)
    raise DataError(
        "no such folder of sections",
        where=str(inside),
        fix="Give hest:PATH of a HEST-Bench task, a folder in HEST-1k layout, a manifest csv or "
        "Space Ranger's outs; or --bench-root DIR and hest:TASK",
    )


def bench_tasks(root: Path) -> list[str]:
    """Name the task folders of HEST-Bench in a folder, sorted."""
    if not root.is_dir():
        raise DataError("no such folder", where=str(root), fix="Give the folder of HEST-Bench")
    return sorted(path.name for path in root.iterdir() if is_bench_task(path))


def is_bench_task(place: Path) -> bool:
    """Whether a place is a task folder of HEST-Bench."""
    return (place / "splits").is_dir()


def hest_card(place: Path) -> TaskCard:
    """Make the card of a task from the place of its sections."""
    bench = is_bench_task(place)
    name = place.resolve().name if place.is_dir() else place.stem
    return TaskCard(
        name=name,
        kind="expression",
        title=f"{'HEST-Bench ' if bench else 'Expression, '}{name}",
        cohort=name,
        metrics=EXPRESSION_METRICS,
        sources=("HEST-1k",) if bench else (),
        definition="Splits and genes as published." if bench else "",
    )


def read_sections(place: Path) -> Sections:
    """List the sections of a task, without reading their expression.

    Args:
        place: A task folder of HEST-Bench, a folder in HEST-1k layout, a manifest (csv), an `outs`
            folder of Space Ranger, or a folder of such folders.

    Raises:
        DataError: When it is none of them, or what it holds contradicts itself.
    """
    if place.is_file():
        return _checked(Sections(tuple(read_manifest(place))), place)
    if is_bench_task(place):
        return _checked(_bench(place), place)
    if (place / "st").is_dir():
        return _checked(Sections(tuple(read_hest(place))), place)
    outs = _outs_folders(place)
    if not outs:
        raise DataError(
            "holds no sections",
            where=str(place),
            fix="Give a HEST-Bench task folder (splits/, adata/), a folder in HEST-1k layout "
            "(st/), a manifest csv or Space Ranger's outs",
        )
    return _checked(Sections(tuple(s for folder in outs for s in read_spaceranger(folder))), place)


def _checked(sections: Sections, place: Path) -> Sections:
    names = [one.sample_id for one in sections.samples]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"sections of one name: {name_some(twice)}", where=str(place))
    for one in sections.samples:
        if one.problem:
            raise DataError(one.problem, where=one.sample_id)
    return replace(sections, samples=tuple(sorted(sections.samples, key=lambda s: s.sample_id)))


def _outs_folders(place: Path) -> list[Path]:
    """The folder itself where it is one of Space Ranger's, else those in it."""

    def is_outs(folder: Path) -> bool:
        return any(folder.glob("*feature_bc_matrix.h5")) or (folder / "outs").is_dir()

    if is_outs(place):
        return [place]
    return [folder for folder in sorted(place.iterdir()) if folder.is_dir() and is_outs(folder)]


def _bench(folder: Path) -> Sections:
    numbers = sorted(
        int(path.stem.removeprefix("train_"))
        for path in (folder / "splits").glob("train_*.csv")
        if path.stem.removeprefix("train_").isdigit()
    )
    if not numbers:
        raise DataError("no train_0.csv", where=str(folder / "splits"), fix="Download it again")
    samples: dict[str, StSample] = {}
    splits = []
    known = _metadata(folder)
    for number in numbers:
        sides = []
        for side in ("train", "test"):
            path = folder / "splits" / f"{side}_{number}.csv"
            names = []
            for row in _rows(path):
                sample = _sample(folder, path, row, known)
                if samples.setdefault(sample.sample_id, sample) != sample:
                    raise DataError(f"other files of {sample.sample_id}", where=str(path))
                names.append(sample.sample_id)
            sides.append(tuple(dict.fromkeys(names)))
        both = sorted(set(sides[0]) & set(sides[1]))
        if both:
            raise DataError(
                f"split {number} trains and tests on {name_some(both)}", where=str(folder)
            )
        splits.append((sides[0], sides[1]))
    return Sections(tuple(samples.values()), tuple(splits), _genes(folder))


def _rows(path: Path) -> list[dict[str, str | None]]:
    if not path.is_file():
        raise DataError("no such split", where=str(path), fix="Download the task again")
    columns, rows = read_dicts(path)
    for name in ("sample_id", "patches_path", "expr_path"):
        if name not in columns:
            raise DataError(f"no column '{name}'", where=str(path), fix="Use HEST-Bench's own csv")
    kept = [dict(row) for row in rows if as_text(row["sample_id"])]
    if not kept:
        raise DataError("names no sample", where=str(path), fix="Download it again")
    return kept


def _sample(
    folder: Path, path: Path, row: Mapping[str, str | None], known: Mapping[str, Mapping[str, str]]
) -> StSample:
    name = str(as_text(row["sample_id"]))
    files = {}
    for column in ("patches_path", "expr_path"):
        text = as_text(row[column])
        files[column] = folder / str(text)
        # Features may be there already, so patches may be absent; expression may not.
        if text is None or (column == "expr_path" and not files[column].is_file()):
            raise DataError(f"{column} of {name} is not there: {text}", where=str(path))
    about = known.get(name, {})
    patches = files["patches_path"]
    return StSample(
        sample_id=name,
        organ=as_text(about.get("organ")) or "unknown",
        patient=as_text(about.get("patient")),
        species=as_text(about.get("species")),
        technology=as_text(about.get("st_technology")),
        h5ad=files["expr_path"],
        patches=patches if patches.is_file() else None,
        metadata=dict(about),
    )


def _metadata(folder: Path) -> dict[str, dict[str, str]]:
    """Rows of a metadata csv of HEST-1k beside the task, by id; empty where there is none."""
    tables = [*sorted(folder.glob("HEST_v*.csv")), *sorted(folder.parent.glob("HEST_v*.csv"))]
    if not tables:
        return {}
    columns, rows = read_dicts(tables[-1])
    if "id" not in columns:
        raise DataError("no column 'id'", where=str(tables[-1]), fix="Use HEST's own csv")
    return {str(row["id"]): {k: str(v) for k, v in row.items() if as_text(v)} for row in rows}


def _genes(folder: Path) -> tuple[str, ...] | None:
    path = folder / _GENES
    if not path.is_file():
        return None
    content = read_json(path)
    genes: Sequence[object] = content.get("genes", ()) if isinstance(content, dict) else ()
    if not genes or not all(isinstance(gene, str) for gene in genes):
        raise DataError("holds no list 'genes'", where=str(path), fix="Download it again")
    twice = sorted({str(gene) for gene in genes if genes.count(gene) > 1})
    if twice:  # it would count twice in every mean over genes
        raise DataError(
            f"names {len(twice)} gene(s) more than once: {name_some(twice)}",
            where=str(path),
            fix="Name each gene once",
        )
    return tuple(map(str, genes))
