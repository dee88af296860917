"""The figure that all pictures are: its look, and what its files hold."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine

from spade_bench.report.drawing.look import DPI, LOOK, SAVING

__all__ = ["PrintFigure"]


class PrintFigure(Figure):
    """A figure whose fonts are embedded however it is saved, and that another process can save."""

    def savefig(self, fname: Any, *, transparent: bool | None = None, **kwargs: Any) -> None:
        """Write it with its fonts in it."""
        with mpl.rc_context(SAVING):
            super().savefig(fname, transparent=transparent, **kwargs)

    def draw(self, renderer: Any) -> None:
        """Draw it, or where nothing reaches the page only place what is in it."""
        # Saving draws twice, at first with nothing reaching the page, so that a layout settles.
        # The layout alone does that, in half the time.
        first = getattr(renderer.draw_image, "__wrapped__", None) is RendererBase.draw_image
        engine = self.get_layout_engine()
        # Ticks are made when they are drawn, in the look of that moment.
        with mpl.rc_context(LOOK):
            if not first:
                super().draw(renderer)
            elif self.axes and not isinstance(engine, (type(None), PlaceHolderLayoutEngine)):
                engine.execute(self)

    def _repr_png_(self) -> bytes:
        # Without pyplot nothing else would tell a notebook how a figure looks.
        buffer = io.BytesIO()
        self.savefig(buffer, dpi=DPI["notebook"], format="png")
        return buffer.getvalue()
