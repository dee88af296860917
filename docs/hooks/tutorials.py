"""Hook of the site: run the tutorials and put what they print and draw below their cells.

A tutorial is a Markdown page whose `python` and `bash` blocks are cells (the Markdown notebooks of
Jupytext). All of them run in one new folder that holds a small simulated study, in the order of the
navigation, each in a kernel of its own. A cell that fails fails the build.
`SPADE_BENCH_TUTORIALS=off` builds the pages without running them, for those who write.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jupytext
import nbclient
from mkdocs.exceptions import PluginError
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "tutorials/"
CELL_SECONDS = 600
LONGEST_OUTPUT = 60  # lines; a page is for reading
# Without it the language of most blocks would count as the notebook's.
HEADER = """---
jupyter:
  kernelspec: {name: python3, language: python, display_name: Python 3}
---

"""
STUDY = """
from pathlib import Path
from spade_bench.simulate import simulate
from spade_bench.simulate.studysettings import Size

size = Size(organs=2, patients=3, second_samples=1, st_side_um=1000.0, st_sites=3,
            cases=32, second_slides=1, slide_side_um=500.0, slide_sites=3)
simulate(Path("data"), 0, size)
"""
BASH = "%%bash\n"
STRICT = "set -euo pipefail\n"  # a cell fails with any of its commands

log = get_plugin_logger("tutorials")
_pages: dict[str, str] = {}
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def on_files(files: Files, *, config: Any) -> Files:
    """Run the tutorials and add their pictures to the site.

    Args:
        files: Files of the site.
        config: Settings of the site.

    Returns:
        The files with the pictures of the tutorials.

    Raises:
        PluginError: When a cell fails.
    """
    _pages.clear()
    if os.environ.get("SPADE_BENCH_TUTORIALS") == "off":
        return files
    with tempfile.TemporaryDirectory(prefix="tutorials-") as work:
        _make_study(Path(work))
        for uri in tutorial_pages(config["nav"]):
            log.info("running %s", uri)
            source = files.get_file_from_path(uri)
            if source is None:
                raise PluginError(f"The navigation names {uri}, which is not there")
            text, pictures = run_page(source.content_string, uri, Path(work))
            _pages[uri] = text
            for name, content in pictures.items():
                files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Show a tutorial as it ran.

    Args:
        markdown: Text of the page.
        page: The page.

    Returns:
        The text with the outputs of its cells, or the text itself where nothing ran.
    """
    return _pages.get(page.file.src_uri, markdown)


def _make_study(work: Path) -> None:
    """Leave `data` and `features` in a folder, as `spade-bench demo` does, of a smaller study."""
    extract = ("extract", "--encoder", "efficientnet-lite0", "--slides", "data/slides")
    for program in (
        ("-c", STUDY),
        ("-m", "spade_bench.cli.main", *extract, "--out", "features", "--device", "cpu"),
    ):
        done = subprocess.run(
            [sys.executable, *program],
            cwd=work,
            env=_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise PluginError(f"The study of the tutorials cannot be made: {done.stderr[-2000:]}")


def tutorial_pages(nav: Any) -> list[str]:
    """Return the tutorials in the order of the navigation.

    Args:
        nav: The navigation, or a part of it.
    """
    if isinstance(nav, str):
        return [nav] if nav.startswith(FOLDER) else []
    parts = nav.values() if isinstance(nav, Mapping) else nav or ()
    return [page for part in parts for page in tutorial_pages(part)]


def run_page(text: str, uri: str, work: Path) -> tuple[str, dict[str, bytes]]:
    """Run the cells of a page.

    Args:
        text: The page.
        uri: Its path in the site.
        work: Folder to run in.

    Returns:
        The page with outputs, and the pictures by their path in the site.

    Raises:
        PluginError: When a cell fails.
    """
    notebook = jupytext.reads(HEADER + text, fmt="md")
    for cell in notebook.cells:
        if cell.source.startswith(BASH):
            cell.source = cell.source.replace(BASH, BASH + STRICT, 1)
    client = nbclient.NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(work)}},
    )
    try:
        client.execute(env=_environment())
    except nbclient.exceptions.CellExecutionError as error:
        raise PluginError(f"{uri}: {_CONTROL.sub('', str(error))}") from error
    pictures: dict[str, bytes] = {}
    parts: list[str] = []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            parts.append(cell.source)
            continue
        language, source = "python", cell.source
        if source.startswith(BASH):
            language, source = "bash", source.removeprefix(BASH + STRICT)
        parts.append(f"```{language}\n{source}\n```")
        shown = list(_outputs(cell.outputs, uri.removesuffix(".md"), pictures))
        if shown:
            inside = "\n\n".join(shown).replace(f"{work}/", "").replace(str(work), ".")
            parts.append(f'<div class="tutorial-output" markdown>\n\n{inside}\n\n</div>')
    return "\n\n".join(parts), pictures


def _environment() -> dict[str, str]:
    """The environment of the kernels: this checkout, the commands beside this Python."""
    return {
        # Without a backend named, the kernel takes the one that shows pictures below cells.
        **{name: value for name, value in os.environ.items() if name != "MPLBACKEND"},
        "COLUMNS": "100",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": str(ROOT),
        "SPADE_BENCH_CACHE": "off",
        "TERM": "dumb",
    }


def _outputs(outputs: Any, stem: str, pictures: dict[str, bytes]) -> Iterator[str]:
    """Yield what a cell shows as Markdown; progress and log lines (stderr) are left out."""
    streams = (output for output in outputs if output.output_type == "stream")
    printed = "".join(output.text for output in streams if output.name == "stdout")
    if printed.strip():  # a program's lines come in pieces
        yield _block(printed)
    for output in outputs:
        if output.output_type == "stream":
            continue
        data = output.get("data", {})
        if "application/vnd.jupyter.widget-view+json" in data:
            continue
        if "image/png" in data:
            name = f"{stem}_files/{len(pictures) + 1}.png"
            pictures[name] = base64.b64decode(data["image/png"])
            # On the page the path is relative to the page itself.
            yield f"![Picture of the cell above]({name.removeprefix(FOLDER)})"
        elif "text/html" in data:
            html = re.sub(r"<style.*?</style>", "", data["text/html"], flags=re.DOTALL)
            if re.sub(r"<.*?>", "", html).strip():  # a bar that is done leaves an empty element
                yield re.sub(r' (border="1"|style="[^"]*"|class="dataframe")', "", html)
        elif data.get("text/plain", "").strip():
            yield _block(data["text/plain"])


def _block(text: str) -> str:
    lines = [line.rstrip() for line in _CONTROL.sub("", text).strip("\n").splitlines()]
    if len(lines) > LONGEST_OUTPUT:
        rest = len(lines) - LONGEST_OUTPUT
        lines = [*lines[:LONGEST_OUTPUT], f"... and {rest} more lines"]
    return "\n".join(["```text", *lines, "```"])
