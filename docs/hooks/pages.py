"""Hooks of the site: pages of the repository's root, and formulas without a script.

The pages in docs/ are read on a code host too, where `../CONTRIBUTING.md` is a link and `$x$` a
formula. The site takes the same pages: it gets the pages of the root as pages of its own, and
turns formulas into MathML, which browsers draw without a library from a network.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
OF_THE_ROOT = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")

_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that lie in the root of the repository.

    Args:
        files: Files of the site.
        config: Settings of the site.

    Returns:
        The files with the added pages.
    """
    for name in OF_THE_ROOT:
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=text.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links to pages of the root at their copies in the site.

    Args:
        markdown: Text of a page.

    Returns:
        The text to build.
    """
    for name in OF_THE_ROOT:
        markdown = markdown.replace(f"](../{name}", f"]({name}")
    return markdown


def on_page_content(content: str, **_: Any) -> str:
    """Turn formulas into MathML.

    Args:
        content: HTML of a page.

    Returns:
        The HTML in which every formula is a `math` element.
    """

    def drawn(found: re.Match[str]) -> str:
        display = "inline" if found["tag"] == "span" else "block"
        return str(convert(html.unescape(found["tex"]).strip(), display=display))

    return _FORMULA.sub(drawn, content)
