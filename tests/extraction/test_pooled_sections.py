"""Features of pseudo-spots: patches are cut around their centres, and made anew for other spots."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from toy_sections import SlideWriter, in_tissue, write_he_section

from spade_bench.extraction import extract_hest
from spade_bench.features.bags import read_bag
from spade_bench.spatial import Pooling, read_section
from spade_bench.spatial.expression import read_expression
from spade_bench.types import EncoderCard, Normalisation


class Colour:
    """Mean colour of each patch, as wide as a spot of 100 µm."""

    card = EncoderCard(
        "mean", "image", 3, "mean colour", patch_px=32, mpp=3.1,
        normalisation=Normalisation((0.5,) * 3, (0.5,) * 3),
    )  # fmt: skip

    def encode(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(np.asarray(images)).float().mean(dim=(1, 2))


def test_patches_show_the_place_of_their_transcripts(
    tmp_path: Path, write_slide: SlideWriter
) -> None:
    bundle = write_he_section(tmp_path / "x", write_slide, 0.6)
    sample = replace(read_section(bundle), organ="Skin", patient="P")
    done = extract_hest([sample], Colour(), tmp_path / "out")
    bag = read_bag(next((tmp_path / "out").rglob("x.h5")))
    data = read_expression(sample)
    assert bag.barcodes is not None
    assert set(bag.barcodes) == set(data.barcodes)
    assert done.done == {"x": len(data.barcodes)}
    # Green is low where tissue is: how much of each spot is tissue, drawn and seen.
    step = np.arange(-45.0, 50.0, 10.0)
    row, column = np.array([name.split("_")[2:] for name in bag.barcodes], dtype=float).T
    x = (column[:, None, None] + 0.5) * 100 + step[None, :, None]
    y = (row[:, None, None] + 0.5) * 100 + step[None, None, :]
    share = in_tissue(x, y).mean(axis=(1, 2))
    green = np.asarray(bag.features)[:, 1]
    assert np.corrcoef(share, -green)[0, 1] > 0.95


def test_other_spots_are_extracted_anew(tmp_path: Path, write_slide: SlideWriter) -> None:
    bundle = write_he_section(tmp_path / "x", write_slide, 0.0)
    for spot_um, reused in ((100, False), (100, True), (150, False)):
        sample = read_section(bundle, pooling=Pooling(spot_um=spot_um), organ="S", patient="P")
        done = extract_hest([sample], Colour(), tmp_path / "out")
        assert (list(done.skipped) == ["x"]) == reused
        if not reused:
            assert done.done == {"x": len(read_expression(sample).barcodes)}
