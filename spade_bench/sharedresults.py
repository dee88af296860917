"""Results joined and passed on: `merge`, `export`, `import`; models passed on: `push`, `pull`.

Part of the front door; `spade_bench.api` names these verbs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.keywords import says_keywords

if TYPE_CHECKING:
    from spade_bench.report.exporting import Exported
    from spade_bench.report.leaderboardfile import LeaderboardFile
    from spade_bench.report.loadedresults import Results
    from spade_bench.results.merging import Merged
    from spade_bench.sharing.hubfolder import Manifest
    from spade_bench.sharing.passingon import Pushed

    Source = str | os.PathLike[str]

__all__ = ["export", "export_leaderboard", "import_results", "merge", "pull", "push"]


@says_keywords
def merge(folders: Source | Sequence[Source], *, out: Source) -> Merged:
    """Join folders of results into a new one; see `spade_bench.results.merging`.

    Args:
        folders: Folders that `run` or `evaluate` wrote, such as those of two hospitals.
        out: Folder to make.

    Raises:
        DataError: When a folder is damaged, or two of them contradict.
    """
    from spade_bench.results.merging import merge as join

    listed = [folders] if isinstance(folders, (str, os.PathLike)) else folders
    return join([Path(folder) for folder in listed], Path(out))


@says_keywords
def export(folder: Source, *, out: Source) -> Exported:
    """Write results as one zip file to pass on; see `spade_bench.report.exporting`.

    Args:
        folder: Folder of results.
        out: The zip file.

    Raises:
        DataError: When the results are damaged.
    """
    from spade_bench.report.exporting import export as write

    return write(Path(folder), Path(out))


@says_keywords
def export_leaderboard(folder: Source, *, out: Source) -> LeaderboardFile:
    """Write the numbers of results as one JSON file; see `spade_bench.report.leaderboardfile`.

    Args:
        folder: Folder of results.
        out: The JSON file.

    Raises:
        DataError: When the results are damaged.
        UserError: When there is no finished result.
    """
    from spade_bench.report.leaderboardfile import write_leaderboard

    return write_leaderboard(Path(folder), Path(out))


@says_keywords
def import_results(file: Source, *, out: Source, max_gb: float = 50.0) -> Results:
    """Check and unpack what `export` wrote; see `spade_bench.results.unpacking`.

    Args:
        file: The zip file.
        out: Folder to make.
        max_gb: Most that may be unpacked, in 10^9 bytes.

    Returns:
        The results in it.

    Raises:
        DataError: When the file is not an export, or damaged.
    """
    from spade_bench.report.loadedresults import Results
    from spade_bench.results.unpacking import import_zip

    return Results([import_zip(Path(file), Path(out), max_gb)])


@says_keywords
def push(
    model: Source,
    *,
    to: Source,
    licence: str = "",
    results: Source | None = None,
    with_patients: bool = False,
    hashes: bool = True,
    public: bool = False,
) -> Pushed:
    """Pass on a model with a card and checksums; see `spade_bench.sharing.passingon`.

    Args:
        model: Folder of `pretrain` or `fit`, or a head that a run kept.
        to: Folder to write, or `hf://OWNER/NAME`.
        licence: Licence of this model; that of its encoder is added by itself.
        results: For a model of `fit`: results of the same encoder, task and head, for the card.
        with_patients: Pass on names of samples, patients and cases as they are.
        hashes: Put a salted hash in the place of each name, so that leaks are still found.
        public: Make a new repository of the hub that all can see.

    Raises:
        UserError: When it is no model, is damaged, or the place cannot be written.
        DataError: When a name or a path of this machine would be passed on.
    """
    from spade_bench.errors import UserError
    from spade_bench.sharing.passingon import push as pass_on

    if with_patients and not hashes:
        raise UserError("--with-patients and --no-hashes contradict each other", fix="Give one")
    return pass_on(
        Path(model),
        os.fspath(to),
        names="named" if with_patients else "hashed" if hashes else "none",
        licence=licence,
        results=None if results is None else Path(results),
        private=not public,
    )


@says_keywords
def pull(source: Source, *, out: Source) -> Manifest:
    """Take over a model that `push` passed on; see `spade_bench.sharing.passingon`.

    Args:
        source: The folder, or `hf://OWNER/NAME`, with `@COMMIT` for one commit.
        out: Folder to make.

    Raises:
        UserError: When there is no such model, or ``out`` is there already.
        DataError: When a file is absent, altered, or of a kind that is not taken over.
    """
    from spade_bench.sharing.passingon import pull as take

    return take(os.fspath(source), Path(out))
