"""Extraction: slides, spots or patch files in, one features file per slide out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.errors import DataError
from spade_bench.extraction.engine import Summary, run_jobs
from spade_bench.extraction.groups import PatchGroup, group_patches
from spade_bench.extraction.jobs import FolderJob, SlideJob, SpotJob
from spade_bench.extraction.recipe import EncoderSource, Settings
from spade_bench.extraction.slidesheet import write_slide_sheet

if TYPE_CHECKING:
    from spade_bench.spatial.sample import StSample
    from spade_bench.types import LoadOptions, PatchEncoder

__all__ = [
    "EncoderSource",
    "PatchGroup",
    "Settings",
    "Summary",
    "extract_hest",
    "extract_patch_folders",
    "extract_slides",
    "group_patches",
]


def extract_slides(
    slides: Path | Sequence[Path],
    encoder: str | PatchEncoder | EncoderSource,
    out: Path,
    *,
    settings: Settings | None = None,
    options: LoadOptions | None = None,
) -> Summary:
    """Extract features of the tissue of every slide under a folder.

    Args:
        slides: Folder of whole slides, searched recursively; one slide; or a list of either.
        encoder: Registry name of a patch encoder, one that is loaded, or a source that is shared
            by several extractions (``options`` are its own then).
        out: Folder to write; features go to `{mag}x_{px}px_{ov}px_overlap/features_{encoder}`.
        settings: How to extract.
        options: How to load the encoder.

    Returns:
        What was done, failures included.

    Raises:
        UserError: When there is nothing to extract, or the encoder cannot be loaded.
    """
    from spade_bench.slides.opening import find_slides

    source, chosen = _source(encoder, options), settings or Settings()
    by_name: dict[str, Path] = {}
    for place in [slides] if isinstance(slides, Path) else slides:
        for name, path in find_slides(place).items():
            if by_name.setdefault(name, path) != path:
                raise DataError(
                    f"several slides are named '{name}' ({by_name[name]}, {path})",
                    fix="Rename one, or extract each into a folder of its own",
                )
    jobs = [SlideJob(name, path, source, chosen) for name, path in by_name.items()]
    done = run_jobs(jobs, source, chosen, out)
    if chosen.preview:
        write_slide_sheet(done)
    return done


def extract_hest(
    samples: Sequence[StSample],
    encoder: str | PatchEncoder | EncoderSource,
    out: Path,
    *,
    settings: Settings | None = None,
    options: LoadOptions | None = None,
    trust: Collection[str] = (),
    checked: bool = False,
    also: Sequence[Path] = (),
) -> Summary:
    """Extract features of the patch around every spot of samples; see `extract_slides`.

    The files also carry `barcode`. Spots whose centre lies off the image have no row. A section
    that `pretrain` would refuse is refused here too, for the same reason.

    Args:
        samples: The sections.
        encoder: As in `extract_slides`.
        out: Folder to write.
        settings: How to extract.
        options: How to load the encoder.
        trust: Ids of samples to use although the checks doubt their geometry.
        checked: The sections were checked before and are not checked again.
        also: Folders of other extractions, whose files of the same identity and input are taken.

    Returns:
        What was done; refused sections are among the failures.

    Raises:
        ConfigError: When a trusted sample is not among the samples.
        UserError: As `extract_slides`.
    """
    from spade_bench.spatial.samplechoice import check_trusted
    from spade_bench.spatial.sectionchecks import FindingsReport

    check_trusted(trust, [sample.sample_id for sample in samples], "--trust")
    source, chosen = _source(encoder, options), settings or Settings()
    report = None if checked else FindingsReport()
    jobs = [
        SpotJob(sample, source, chosen, report, sample.sample_id in trust) for sample in samples
    ]
    done = run_jobs(jobs, source, chosen, out, also=also)
    if report is not None:
        report.close()
    return done


def extract_patch_folders(
    groups: Sequence[PatchGroup],
    encoder: str | PatchEncoder | EncoderSource,
    out: Path,
    *,
    settings: Settings | None = None,
    options: LoadOptions | None = None,
) -> Summary:
    """Extract features of image files grouped into slides; see `extract_slides`.

    Rows are in the natural order of the file names.
    """
    source, chosen = _source(encoder, options), settings or Settings()
    jobs = [FolderJob(group.slide_id, group.files, source, chosen) for group in groups]
    return run_jobs(jobs, source, chosen, out)


def _source(
    encoder: str | PatchEncoder | EncoderSource, options: LoadOptions | None
) -> EncoderSource:
    return encoder if isinstance(encoder, EncoderSource) else EncoderSource(encoder, options)
