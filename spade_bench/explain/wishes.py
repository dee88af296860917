"""What `explain` shall write beside the numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spade_bench.errors import UserError
from spade_bench.explain.detections import MAX_DETECTIONS
from spade_bench.explain.viewer.viewerfiles import VIEWER_PX, check_viewer_px

__all__ = ["Wishes"]


@dataclass(frozen=True)
class Wishes:
    """What is written beside maps and pictures.

    Attributes:
        geojson: Whether files for QuPath are written.
        top: Patches of each end on the contact sheets; 0 for no sheets.
        blind: Whether the sheets name no encoder.
        regions: GeoJSON file or folder of them, to hold maps against and to outline in pictures.
        region_names: Classes or names of the regions to hold maps against; empty for all.
        pictures: Whether every map is drawn; without, there are numbers alone.
        gzip: Whether files for QuPath are compressed.
        max_detections: Most patches in a file for QuPath.
        viewer: Whether a viewer is written, which opens without a server.
        viewer_px: Longer side of its largest picture of a slide.
    """

    geojson: bool = False
    top: int = 50
    blind: bool = False
    regions: Path | None = None
    region_names: tuple[str, ...] = ()
    pictures: bool = True
    gzip: bool = False
    max_detections: int = MAX_DETECTIONS
    viewer: bool = False
    viewer_px: int = VIEWER_PX

    def check(self, *, slides: bool, patches: bool) -> None:
        """Refuse what cannot be written, before anything is computed.

        Args:
            slides: Whether there are slides to draw on.
            patches: Whether there are images of patches instead.

        Raises:
            UserError: Naming the option.
        """
        self.check_options()
        needing = {"--viewer": self.viewer, "--geojson": self.geojson}
        needing["--regions"] = self.regions is not None
        for option in [name for name, wished in needing.items() if wished and patches]:
            raise UserError(
                "needs slides, and --patches gives images whose places nobody knows",
                where=option,
                fix="Leave one of the two out",
            )
        if self.blind and not (slides or patches):
            raise UserError(
                "makes contact sheets, which show slides or images of patches",
                where="--blind",
                fix="Name their folder with --slides or --patches",
            )
        if self.viewer and not slides:
            raise UserError(
                "the viewer needs the slides", where="--viewer", fix="Name their folder with "
                "--slides"
            )  # fmt: skip

    def check_options(self) -> None:
        """Refuse options that contradict each other or ask for nothing.

        Raises:
            UserError: Naming the option.
        """
        if self.viewer:
            check_viewer_px(self.viewer_px)
        if self.viewer and self.blind:
            raise UserError(
                "a viewer names the encoders, which --blind withholds",
                where="--viewer",
                fix="Leave one of them out",
            )
        if self.blind and not self.top:
            raise UserError(
                "hides the names on contact sheets, and --top 0 asks for none",
                where="--blind",
                fix="Leave one of them out",
            )
        if self.region_names and self.regions is None:
            raise UserError(
                "chooses among regions, and none are given",
                where="--region-name",
                fix="Add --regions, or leave it out",
            )
        if self.gzip and not self.geojson:
            raise UserError(
                "compresses files for QuPath, and none are asked for",
                where="--gzip",
                fix="Add --geojson, or leave it out",
            )
