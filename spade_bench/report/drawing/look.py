"""How pictures look on paper: sizes of letters and lines, dots per inch, what files must hold."""

from __future__ import annotations

from typing import Any

__all__ = ["DPI", "LOOK", "SAVING", "UNDATED"]

DPI = {"png": 300, "notebook": 200}

LOOK: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so that widths are known
    "font.size": 7.0,
    "axes.titlesize": 7.0,
    "axes.labelsize": 7.0,
    "figure.titlesize": 7.5,
    "figure.labelsize": 7.0,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.0,
    "text.parse_math": False,  # a name with dollars is a name
}

# Type 42 embeds fonts as outlines that journals take and that stay text; Type 3 they refuse. SVG
# has no fonts that every program reads, so its letters are outlines and look the same everywhere.
SAVING: dict[Any, Any] = {
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "spade-bench",
}

# Without a date the same results make the same bytes.
UNDATED: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
    "png": {"Software": None},
}
