"""Results of several folders joined, and passed on as one file: `merge`, `export`, `import`.

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
    from spade_bench.report.loadedresults import Results
    from spade_bench.results.merging import Merged

    Source = str | os.PathLike[str]

__all__ = ["export", "import_results", "merge"]


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
