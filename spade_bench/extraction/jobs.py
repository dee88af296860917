"""What can be extracted: whole slides, the spots of a sample, the image files of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.console import warn
from spade_bench.errors import DataError
from spade_bench.extraction.recipe import EncoderSource, Settings, fingerprint
from spade_bench.extraction.stream import DROPPED, PatchReader
from spade_bench.slides.opening import Slide, open_slide
from spade_bench.slides.patches import fit_patch, open_spots, read_patch
from spade_bench.slides.pyramids import PLAIN_SUFFIXES
from spade_bench.slides.quality import BLURRED
from spade_bench.spatial.instruments.outsfiles import find_outs_files
from spade_bench.spatial.instruments.technologies import pooled_files
from spade_bench.spatial.sectionchecks import check_section, overrule, refusal

if TYPE_CHECKING:
    import numpy as np

    from spade_bench.slides.grid import Grid
    from spade_bench.slides.tissue import TissueMask
    from spade_bench.spatial.sample import StSample
    from spade_bench.spatial.sectionchecks import FindingsReport

__all__ = ["FolderJob", "SlideJob", "SpotJob"]

_MASK_VERSION = 3  # raise when tissue detection or the grid changes
_PLACE_VERSION = 3  # raise when the patches of spots are cut elsewhere, or checked otherwise
_READER_VERSION = 2  # raise when plain images and TIFFs are read otherwise
_PLAIN = PLAIN_SUFFIXES | {".tif", ".tiff"}
_COARSEST = 2.2  # times the wanted resolution: beyond it, patches would be mostly invented


@dataclass(frozen=True)
class SlideJob:
    """A whole slide: tissue mask, grid, patches."""

    slide_id: str
    path: Path
    source: EncoderSource
    settings: Settings

    def inputs(self) -> Mapping[str, Any]:
        """See `Job.inputs`."""
        return {
            "kind": "slide",
            "input": fingerprint(self.path),
            "mpp": self.source.mpp(self.settings),
            "overlap": self.settings.overlap,
            "min_tissue": self.settings.min_tissue,
            "assume_mpp": self._assumed(),
            "mask": _MASK_VERSION,
            "drop_pen": self.settings.drop_pen,
            "drop_blur": BLURRED if self.settings.drop_blur else None,
            **self._reader(),
        }

    def _reader(self) -> dict[str, Any]:
        """What of the reading determines the pixels, where it is not what it always was."""
        chosen = {"override_mpp": self.settings.override_mpp, "series": self.settings.series}
        plain = self.path.suffix.lower() in _PLAIN
        version = {"reader": _READER_VERSION} if plain else {}
        return {**version, **{key: value for key, value in chosen.items() if value is not None}}

    def _open(self) -> Slide:
        return open_slide(
            self.path,
            slide_id=self.slide_id,
            assume_mpp=self.settings.assume_mpp,
            override_mpp=self.settings.override_mpp,
            series=self.settings.series,
        )

    def _assumed(self) -> float | None:
        """The assumed resolution, if this slide needs it: others are not made again for it."""
        if self.settings.assume_mpp is None:
            return None
        try:
            with self._open() as slide:
                return slide.mpp if slide.mpp_source == "assumed" else None
        except DataError:
            return None  # said when it is opened to be read

    def prepare(self, folder: Path) -> PatchReader:
        """See `Job.prepare`."""
        from spade_bench.extraction.preview import preview_picture, write_preview
        from spade_bench.slides.quality import sharp

        px, mpp = self.source.patch_px, self.source.mpp(self.settings)
        how = self.source.card.interpolation
        slide = self._open()
        for note in slide.notes:
            warn(f"{self.slide_id}: {note}")
        try:
            tissue, grid = self._patches(slide, folder)
            picture = preview_picture(slide, tissue) if self.settings.preview else None
        except BaseException:
            slide.close()
            raise

        def read(start: int, stop: int) -> np.ndarray:
            import numpy as np

            corners = grid.coords[start:stop]
            return np.stack([slide.read(x, y, grid.side, px, how) for x, y in corners])

        def finish(rows: np.ndarray) -> None:
            if picture is not None:
                write_preview(folder, slide, tissue.mask, picture=picture,
                              patches=grid.coords[rows], side=grid.side)  # fmt: skip

        attrs = {
            "patch_size": px,
            "patch_size_level0": round(grid.side),
            "level0_magnification": round(10 / slide.mpp, 2),
            "target_magnification": round(10 / mpp, 2),
            "overlap": self.settings.overlap,
            "level0_width": slide.width,
            "level0_height": slide.height,
            "mpp": mpp,
            "level0_mpp": slide.mpp,
            "level0_mpp_source": slide.mpp_source,
        }
        if any(slide.offset):  # regions that were drawn in QuPath are counted from there
            attrs |= {"bounds_x": slide.offset[0], "bounds_y": slide.offset[1]}
        keep = sharp if self.settings.drop_blur else None
        n = len(grid.coords)
        return PatchReader(n, read, grid.coords, None, attrs, keep, finish, slide.close)

    def _patches(self, slide: Slide, folder: Path) -> tuple[TissueMask, Grid]:
        """Find the tissue and lay the grid; a slide without any leaves its preview behind."""
        import numpy as np

        from spade_bench.extraction.preview import preview_picture, write_preview
        from spade_bench.slides.grid import make_grid
        from spade_bench.slides.quality import ink_mask
        from spade_bench.slides.tissue import find_tissue

        px, mpp = self.source.patch_px, self.source.mpp(self.settings)
        tissue = find_tissue(slide)
        _check_resolution(slide, mpp)
        ink = None
        if self.settings.drop_pen:
            thumbnail_mpp = slide.width * slide.mpp / tissue.mask.shape[1]
            ink = ink_mask(tissue.thumbnail, thumbnail_mpp)
            tissue = replace(tissue, mask=tissue.mask & ~ink)
        side = slide.side(px, mpp)
        try:
            grid = make_grid(
                slide.width,
                slide.height,
                side,
                tissue.mask,
                overlap=self.settings.overlap / px,
                min_tissue=self.settings.min_tissue,
                avoid=ink,
            )
        except DataError:
            if self.settings.preview:
                picture = preview_picture(slide, tissue)
                write_preview(folder, slide, tissue.mask, picture=picture,
                              patches=np.empty((0, 2)), side=side)  # fmt: skip
            raise
        return tissue, grid


@dataclass(frozen=True)
class SpotJob:
    """The spots of one spatial transcriptomics sample.

    Attributes:
        sample: The sample.
        source: The encoder.
        settings: How to extract.
        report: Takes what the checks of the section find; None for a sample that was checked.
        trusted: The user trusts the sample, so doubts about its geometry do not drop it.
    """

    sample: StSample
    source: EncoderSource
    settings: Settings
    report: FindingsReport | None = None
    trusted: bool = False

    @property
    def slide_id(self) -> str:
        """Id of the sample."""
        return self.sample.sample_id

    def inputs(self) -> Mapping[str, Any]:
        """See `Job.inputs`."""
        files = [self.sample.h5ad, self.sample.image, self.sample.patches]
        if self.sample.spaceranger is not None:
            with suppress(DataError):  # said when the section is checked
                outs = find_outs_files(self.sample.spaceranger)
                files += [outs.matrix, outs.positions, outs.scalefactors]
        return {
            "kind": "spots",
            "place": _PLACE_VERSION,
            "input": [fingerprint(file) for file in files if file is not None],
            "spaceranger": self.sample.spaceranger and self.sample.spaceranger.name,
            "mpp": self.source.mpp(self.settings),
            "pixel_size_um": self.sample.pixel_size_um or self.settings.assume_mpp,
            **self._pooled(),
            **({"trusted": True} if self.trusted else {}),
        }

    def _pooled(self) -> dict[str, Any]:
        """What determines pseudo-spots; empty for spots that have a size of their own."""
        sample = self.sample
        if sample.pooling is None:
            return {}
        files = pooled_files(sample)
        return {"pooled": [fingerprint(file) for file in files], "pooling": asdict(sample.pooling)}

    def _checked(self, report: FindingsReport) -> StSample:
        """The sample with the pixel size that its spots tell, where nothing else does.

        Raises:
            DataError: When the checks refuse it.
        """
        checked, _ = check_section(self.sample, assume_mpp=self.settings.assume_mpp)
        findings = overrule(checked.findings) if self.trusted else checked.findings
        report.add(self.slide_id, [finding for finding in findings if not finding.fatal])
        why = refusal(findings)
        if why:
            raise DataError(f"{DROPPED}{why}", where=self.slide_id)
        return checked.sample

    def prepare(self, folder: Path) -> PatchReader:
        """See `Job.prepare`."""
        px, mpp = self.source.patch_px, self.source.mpp(self.settings)
        spots = open_spots(
            self.sample if self.report is None else self._checked(self.report),
            px=px,
            mpp=mpp,
            interpolation=self.source.card.interpolation,
            assume_mpp=self.settings.assume_mpp,
        )
        level0 = mpp * px / spots.side
        attrs = {
            "patch_size": px,
            "patch_size_level0": round(spots.side),
            "level0_magnification": round(10 / level0, 2),
            "target_magnification": round(10 / mpp, 2),
            "overlap": 0,
            "level0_width": None,
            "level0_height": None,
            "mpp": mpp,
            "level0_mpp": level0,
            "patches_from": "patch file" if spots.rows is not None else "image",
        }
        return PatchReader(
            len(spots), spots.read, spots.coords, spots.barcodes, attrs, close=spots.close
        )


@dataclass(frozen=True)
class FolderJob:
    """Image files that together are one slide, in the order given."""

    slide_id: str
    files: tuple[Path, ...]
    source: EncoderSource
    settings: Settings

    def inputs(self) -> Mapping[str, Any]:
        """See `Job.inputs`."""
        return {
            "kind": "patches",
            "input": [fingerprint(file) for file in self.files],
            "mpp": self.settings.mpp,
            "assume_mpp": self.settings.assume_mpp,
        }

    def prepare(self, folder: Path) -> PatchReader:
        """See `Job.prepare`."""
        card, px = self.source.card, self.source.patch_px
        assumed = self.settings.assume_mpp
        scale = None if assumed is None else assumed / self.source.mpp(self.settings)

        def read(start: int, stop: int) -> np.ndarray:
            import numpy as np

            images = []
            for file in self.files[start:stop]:
                try:
                    images.append(
                        fit_patch(
                            read_patch(file),
                            px,
                            crop_pct=card.crop_pct,
                            interpolation=card.interpolation,
                            scale=scale,
                        )
                    )
                except DataError as error:
                    raise DataError(error.what, where=file.name, fix=error.fix) from error
            return np.stack(images)

        mpp = None if assumed is None else self.source.mpp(self.settings)
        return PatchReader(len(self.files), read, attrs={"patch_size": px, "mpp": mpp})


def _check_resolution(slide: Slide, mpp: float) -> None:
    if slide.mpp <= _COARSEST * mpp:
        return
    likely = slide.mpp / 10
    hints = []
    if slide.series > 1:
        hints.append("this is the macro image (--series N takes another)")
    if slide.mpp_source not in {"given", "overridden"} and 0.1 <= likely <= 0.6:
        hints.append(f"{likely:.3g} was stored off by ten (--override-mpp {likely:.3g})")
    cause = f"; perhaps {' or '.join(hints)}" if hints else ""
    raise DataError(
        f"is too coarse: {slide.mpp:.3g} µm/px ({slide.mpp_source}) where patches of {mpp:g} "
        f"µm/px are wanted{cause}",
        where=slide.slide_id,
        fix=f"Only if it really is that coarse, give --mpp {slide.mpp:.3g}",
    )
