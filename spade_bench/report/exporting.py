"""A folder of results as one zip file that can be passed on, without paths of this machine.

It holds the rows, predictions, settings, plans, episodes and cohorts, the cards and licences of
what was used, the environment, the report as a page, and a manifest with the SHA-256 of every file.
Names of cases and patients stay, because results are nothing without them. Kept heads stay out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spade_bench import console
from spade_bench.errors import DataError
from spade_bench.files import (
    atomic_path,
    check_target,
    hash_obj,
    read_json,
    write_json,
    write_sealed,
    write_text,
)
from spade_bench.registry import head_card
from spade_bench.report.literature import citations
from spade_bench.report.loadedresults import Results
from spade_bench.report.page.howmade import environments
from spade_bench.results.merging import merge
from spade_bench.results.pathscrub import scrubbed
from spade_bench.results.rows import now
from spade_bench.results.runsettings import stored_settings
from spade_bench.results.store import ResultStore, stored_in
from spade_bench.results.unpacking import MANIFEST, SCHEMA
from spade_bench.version import __version__

__all__ = ["Exported", "export"]

_THEN = (1980, 1, 1, 0, 0, 0)  # the time of every member: equal results make equal members
_COMPRESSED = frozenset({".parquet", ".npz"})


@dataclass(frozen=True)
class Exported:
    """What an export made.

    Attributes:
        file: The zip file.
        files: How many files it holds, without the manifest.
        n_bytes: Its size.
        cells: Finished cells in it.
    """

    file: Path
    files: int
    n_bytes: int
    cells: int


def export(folder: Path, out: Path) -> Exported:
    """Write a folder of results as one zip file.

    Args:
        folder: Folder that `run` or `merge` wrote.
        out: The zip file.

    Raises:
        DataError: When the results are damaged, or a path of this machine would be passed on.
        UserError: When the file cannot be written.
    """
    check_target(out, "--out", "results.zip", inputs=stored_in([folder]))
    with tempfile.TemporaryDirectory(prefix="spade-bench-") as scratch:
        staged = Path(scratch) / (folder.resolve().name or "results")
        cells = merge([folder], staged).cells
        _scrub(staged)
        results = Results([staged])
        if results.problems:
            raise DataError(f"{results.problems[0]} Nothing is exported", where=str(folder))
        _describe(results, staged)
        results.to_html(staged / "report.html")
        names = sorted(_exported(staged))
        _check_places(staged, names, (folder.resolve(), Path.cwd(), Path.home(), staged.parent))
        with atomic_path(out) as temporary:
            _pack(staged, names, temporary)
    return Exported(out, len(names), out.stat().st_size, cells)


def _exported(staged: Path) -> Iterator[str]:
    for path in staged.rglob("*"):
        name = path.relative_to(staged).as_posix()
        if path.is_file() and not name.startswith("heads/") and path.suffix != ".lock":
            yield name


def _scrub(staged: Path) -> None:
    """Cut absolute paths in settings, cohorts and rows to their last part."""
    for path in sorted((staged / "configs").glob("*.json")):
        content = read_json(path)
        if (cut := scrubbed(content)) != content:
            path.unlink()  # its name is that of another content, which may lie where this goes
            write_json(path.with_name(f"run-{hash_obj(cut)[:8]}.json"), cut)
    for path in sorted((staged / "cohorts").glob("*.json")):
        content = read_json(path)
        # Names of cases and slides are left as they are, whatever they look like.
        left_out = [{**one, "why": scrubbed(one["why"])} for one in content.get("left_out", ())]
        cut = {**content, "source": scrubbed(content.get("source", [])), "left_out": left_out}
        if cut != content:
            path.unlink()
            name = f"{path.stem.rpartition('-')[0]}-{hash_obj(cut)[:8]}.json"
            write_sealed(path.with_name(name), cut)
    store = ResultStore(staged)
    rows = [
        replace(row, error=scrubbed(row.error), env=scrubbed(dict(row.env))) for row in store.rows()
    ]
    write_text(store.path, "".join(row.to_line() for row in rows))


def _describe(results: Results, staged: Path) -> None:
    """Write the cards, licences, references and environments of what was used."""
    settings = stored_settings(results.folders, results.problems)
    items = citations.used(results.series, settings)
    for item in items:
        card = _card(item.kind, item.name, settings)
        if card:
            content = {"schema": f"spade-bench/card/{item.kind}/1", **card}
            name = hashlib.sha256(item.name.encode()).hexdigest()[:8]
            write_json(staged / "cards" / f"{item.kind}-{name}.json", content)
    listed = [item.as_dict() for item in items]
    write_json(staged / "licences.json", {"schema": "spade-bench/licences/1", "used": listed})
    write_text(staged / "references.bib", citations.bibtex(items) + "\n")
    machines = [dataclasses.asdict(one) for one in environments(results)]
    content = {"schema": "spade-bench/environment/1", "exported_by": __version__, "runs": machines}
    write_json(staged / "environment.json", content)


def _card(kind: str, name: str, settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fields of a card, without paths; none where nothing is known."""
    if kind == "task":
        return dict(scrubbed(dict(citations.task_card(name, settings))))
    cards: dict[str, Callable[[str], Any]] = {
        "encoder": citations.encoder_card,
        "head": head_card,
    }
    card = cards[kind](name) if kind in cards else None
    if card is None:
        return {}
    # What JSON does not know, such as sets, is written as text.
    plain = json.loads(json.dumps(dataclasses.asdict(card), default=str))
    return dict(scrubbed(plain))


def _check_places(staged: Path, names: Sequence[str], places: Sequence[Path]) -> None:
    """Make sure that no file speaks of a place of this machine.

    Raises:
        DataError: Naming the first that does.
    """
    told = {str(place).encode() for place in places if len(place.parts) > 2}
    for name in names:
        if name.startswith("predictions/"):
            continue
        content = (staged / name).read_bytes()
        for place in told:
            if place in content:
                raise DataError(
                    f"'{name}' would hold the path {place.decode()}",
                    where="export",
                    fix="Rename what carries it, such as a label or a case, and run again",
                )


def _pack(staged: Path, names: Sequence[str], target: Path) -> None:
    """Write the zip file; the manifest comes last and speaks of all other members."""
    files = []
    with (
        zipfile.ZipFile(target, "w", allowZip64=True) as archive,
        console.progress("Exporting", len(names), "files") as bar,
    ):
        for name in names:
            content = (staged / name).read_bytes()
            _add(archive, name, content)
            digest = hashlib.sha256(content).hexdigest()
            files.append({"path": name, "bytes": len(content), "sha256": digest})
            bar.advance(1)
        manifest = {
            "schema": SCHEMA,
            "created_utc": now(),
            "spade_bench": __version__,
            "results": staged.name,
            "files": files,
        }
        _add(archive, MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    member = zipfile.ZipInfo(name, _THEN)
    member.external_attr = 0o100644 << 16
    packed = Path(name).suffix in _COMPRESSED
    member.compress_type = zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED
    archive.writestr(member, content)
