"""Extraction of sections refuses what pretraining refuses, in the same words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from spade_bench.config import build
from spade_bench.encoders.spade.pretraining.prepare.gather import check_all
from spade_bench.encoders.spade.pretraining.pretrainconfig import PretrainConfig
from spade_bench.errors import ConfigError
from spade_bench.extraction import Settings, extract_hest
from spade_bench.spatial import StSample
from spade_bench.types import EncoderCard, Normalisation

ROWS, COLUMNS, PITCH = 5, 12, 60.0
SPOTS = np.array(
    [
        (100 + column * PITCH + row % 2 * PITCH / 2, 100 + row * PITCH * 0.866)
        for row in range(ROWS)
        for column in range(COLUMNS)
    ]
)
MPP = 100 / PITCH


class Colour:
    """Mean colour of each patch."""

    card = EncoderCard(
        "mean", "image", 3, "mean colour", patch_px=32, mpp=MPP,
        normalisation=Normalisation((0.5,) * 3, (0.5,) * 3),
    )  # fmt: skip

    def encode(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(np.asarray(images)).float().mean(dim=(1, 2))


def section(folder: Path, name: str, seed: int, change: str = "") -> StSample:
    """A section of a Visium lattice on a stained image, with one thing wrong."""
    rng = np.random.default_rng(seed)
    image = np.full((420, 1000, 3), 243, np.uint8)
    image[60:360, 60:900] = rng.integers((150, 60, 130), (210, 130, 190), (300, 840, 3))
    folder.mkdir(exist_ok=True)
    Image.fromarray(image).save(folder / f"{name}.tif")
    genes = [str(i) if change == "gene names" else f"G{i}" for i in range(300)]
    counts = rng.poisson(2, (len(SPOTS), 300)).astype(np.float32)
    if change == "scaled":
        counts -= 2
    data = anndata.AnnData(counts, var=pd.DataFrame(index=genes))
    data.obs_names = [f"b{i}" for i in range(len(SPOTS))]
    places = {"micrometres": SPOTS * MPP, "swapped": SPOTS[:, ::-1], "equal": SPOTS * 0 + 200}
    data.obsm["spatial"] = np.array(places.get(change, SPOTS))
    data.write_h5ad(folder / f"{name}.h5ad")
    if change == "half a file":
        with (folder / f"{name}.h5ad").open("r+b") as handle:
            handle.truncate(3000)
    if change == "image":
        (folder / f"{name}.tif").write_bytes(b"half a download")
    factor = {"pixel size x10": 10, "pixel size /10": 0.1}.get(change, 1.0)
    return StSample(
        name,
        organ="Lung",
        patient=name,
        technology="Visium",
        pixel_size_um=None if change == "no pixel size" else MPP * factor,
        h5ad=folder / f"{name}.h5ad",
        image=folder / f"{name}.tif",
    )


FAULTS = [
    *("pixel size x10", "pixel size /10", "micrometres", "swapped", "equal"),
    *("gene names", "scaled", "half a file", "image"),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_extract_drops_what_pretrain_drops(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = section(tmp_path, "good", 0), section(tmp_path, "bad", 1, fault)
    records = check_all([good, bad], build(PretrainConfig, {"encoder": "mean"}), tmp_path / "c")
    assert not records[0].refusal
    assert records[1].refusal
    done = extract_hest([good, bad], Colour(), tmp_path / "out")
    assert list(done.done) == ["good"]
    assert done.failed["bad"].rstrip(".") == f"bad: dropped: {records[1].refusal}"
    said = capsys.readouterr().err
    assert said.count("bad: dropped: ") == 1
    assert "skipped" not in said
    again = extract_hest([good, bad], Colour(), tmp_path / "out")
    assert (again.skipped, list(again.failed)) == (("good",), ["bad"])


@pytest.mark.parametrize("fault", ["pixel size x10", "pixel size /10"])
def test_doubts_can_be_overruled(fault: str, tmp_path: Path) -> None:
    bad = section(tmp_path, "bad", 1, fault)
    settings = Settings(mpp=bad.pixel_size_um)
    done = extract_hest([bad], Colour(), tmp_path / "out", trust=["bad"], settings=settings)
    assert done.done == {"bad": len(SPOTS)}
    with pytest.raises(ConfigError, match="--trust: no sample named bda"):
        extract_hest([bad], Colour(), tmp_path / "out", trust=["bda"])
    assert extract_hest([bad], Colour(), tmp_path / "out", settings=settings).failed


def test_a_missing_pixel_size_is_measured_or_assumed(tmp_path: Path) -> None:
    known = section(tmp_path, "known", 0, "no pixel size")
    assert not extract_hest([known], Colour(), tmp_path / "a").failed
    unknown = replace(known, technology=None)
    failed = extract_hest([unknown], Colour(), tmp_path / "b").failed
    assert "dropped: no pixel size, and the spot pitch is unknown" in failed["known"]
    for sample, assumed, right in ((unknown, MPP, True), (known, MPP, True), (known, 9.0, False)):
        settings = Settings(assume_mpp=assumed)
        out = tmp_path / f"{sample.technology}{assumed}"
        assert bool(extract_hest([sample], Colour(), out, settings=settings).done) == right


def test_the_image_may_say_its_own_pixel_size(
    tmp_path: Path, write_slide: Callable[..., Path]
) -> None:
    sample = section(tmp_path, "s", 0, "no pixel size")
    assert sample.image is not None
    pixels = np.asarray(Image.open(sample.image))
    own = write_slide(tmp_path / "own.tif", pixels, mpp=MPP)
    sample = replace(sample, technology=None, image=own)
    assert extract_hest([sample], Colour(), tmp_path / "out").done == {"s": len(SPOTS)}


def test_findings_are_said_for_few_samples_and_counted_for_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [replace(section(tmp_path, f"s{i}", i), organ="unknown") for i in range(5)]
    assert len(extract_hest(samples, Colour(), tmp_path / "out").done) == 5
    said = capsys.readouterr().err
    assert said.count("organ unknown: ") == 3
    assert "organ-unknown: 2 more samples, 120 items" in said


@pytest.mark.parametrize("part", ["img", "coords", "barcode"])
def test_a_damaged_part_of_a_patch_file_costs_its_section(part: str, tmp_path: Path) -> None:
    names = np.array([f"b{i}" for i in range(len(SPOTS))], dtype="S")
    path = tmp_path / "patches.h5"
    content = {
        "img": np.full((len(SPOTS), 32, 32, 3), 120, np.uint8),
        "coords": (SPOTS - 16).astype(np.int64),
        "barcode": names,
    }
    with h5py.File(path, "w") as handle:
        for name, values in content.items():
            made = handle.create_dataset(name, data=values, chunks=True, compression="gzip")
            if name == part:
                chunk = made.id.get_chunk_info(0)
        handle["img"].attrs.update({"pixel_size": MPP, "patch_size_src": 32})
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xaa" * chunk.size
    path.write_bytes(bytes(data))
    bad = replace(section(tmp_path, "bad", 1), patches=path)
    done = extract_hest([section(tmp_path, "good", 0), bad], Colour(), tmp_path / "out")
    assert list(done.done) == ["good"]
    assert "bad: " in done.failed["bad"]
    assert "cannot be read" in done.failed["bad"]
