"""DICOM slides: a pyramid in several files, written here, is read and extracted as one slide."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spade_bench.extraction import Settings, extract_slides
from spade_bench.features.bags import read_bag
from spade_bench.slides.opening import find_slides, open_slide
from spade_bench.types import EncoderCard, Normalisation

pydicom = pytest.importorskip("pydicom", reason="pydicom, of the development tools, is absent")

TILE = 128
HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class MeanColour:
    """Mean colour of each patch."""

    card = EncoderCard(
        "mean", "image", 3, "mean colour", patch_px=64, mpp=0.5, normalisation=HALF
    )  # fmt: skip

    def encode(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(images, dtype=np.float32).mean(axis=(1, 2))


def _section() -> np.ndarray:
    """Glass with a stained rectangle whose colour drifts, (700, 900, 3) uint8."""
    rng = np.random.default_rng(0)
    pixels = np.full((700, 900, 3), 243.0)
    ramp = np.linspace(0, 60, 640)[None, :, None]
    pixels[128:576, 128:768] = np.array([150, 80, 150]) + ramp + rng.integers(-9, 10, (448, 640, 1))
    return pixels.astype(np.uint8)


def _write_instance(path: Path, pixels: np.ndarray, mpp: float, series: str, jpeg: bool) -> None:
    """Write one level as a VL Whole Slide Microscopy image with full tiling (PS3.3 A.32.8)."""
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

    height, width = pixels.shape[:2]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = JPEGBaseline8Bit if jpeg else ExplicitVRLittleEndian
    data: Any = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID = meta.MediaStorageSOPClassUID
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID = data.StudyInstanceUID = series
    data.Modality = "SM"
    data.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE" if mpp == 0.5 else "RESAMPLED"]
    data.DimensionOrganizationType = "TILED_FULL"
    data.SamplesPerPixel, data.PlanarConfiguration, data.PixelRepresentation = 3, 0, 0
    data.PhotometricInterpretation = "YBR_FULL_422" if jpeg else "RGB"
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.Rows = data.Columns = TILE
    data.TotalPixelMatrixColumns, data.TotalPixelMatrixRows = width, height
    data.TotalPixelMatrixFocalPlanes = data.NumberOfOpticalPaths = 1
    data.ImagedVolumeWidth, data.ImagedVolumeHeight = width * mpp / 1e3, height * mpp / 1e3
    measures, shared, path_item = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [mpp / 1e3, mpp / 1e3]
    shared.PixelMeasuresSequence = [measures]
    data.SharedFunctionalGroupsSequence = [shared]
    path_item.OpticalPathIdentifier, path_item.ObjectiveLensPower = "0", "20"
    data.OpticalPathSequence = [path_item]
    frames = []
    padded = np.pad(pixels, ((0, -height % TILE), (0, -width % TILE), (0, 0)), mode="edge")
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            tile = np.ascontiguousarray(padded[top : top + TILE, left : left + TILE])
            buffer = io.BytesIO()
            if jpeg:
                Image.fromarray(tile).save(buffer, "JPEG", quality=95)
            frames.append(buffer.getvalue() if jpeg else tile.tobytes())
    data.NumberOfFrames = len(frames)
    data.PixelData = encapsulate(frames) if jpeg else b"".join(frames)
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = jpeg
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def _write_dicom(folder: Path, pixels: np.ndarray, *, jpeg: bool) -> None:
    from pydicom.uid import generate_uid

    series = generate_uid()
    for level in range(2):
        step = 2**level
        _write_instance(
            folder / f"level_{level}.dcm", pixels[::step, ::step], 0.5 * step, series, jpeg
        )


@pytest.mark.parametrize("jpeg", [False, True])
def test_a_dicom_series_is_one_slide_and_extracts(tmp_path: Path, jpeg: bool) -> None:
    pixels = _section()
    _write_dicom(tmp_path / "slides", pixels, jpeg=jpeg)
    found = find_slides(tmp_path / "slides")
    assert list(found) == ["level_0"]
    with open_slide(found["level_0"]) as slide:
        assert (slide.width, slide.height) == (900, 700)
        assert slide.mpp == pytest.approx(0.5)
        assert slide.mpp_source == "mpp property"
        assert slide._pyramid.downsamples == (1.0, 2.0)
        got = slide.read(101, 333, 224, 224).astype(int)
        assert np.abs(got - pixels[333:557, 101:325]).mean() < (4 if jpeg else 1e-9)
        lower = slide.read(128, 128, 448, 224).astype(int)
        assert np.abs(lower - pixels[128:576:2, 128:576:2]).mean() < (4 if jpeg else 1e-9)
    for mpp, side in ((0.5, 64), (1.0, 128)):
        done = extract_slides(
            tmp_path / "slides", MeanColour(), tmp_path / "out", settings=Settings(mpp=mpp)
        )
        assert done.failed == {}
        bag = read_bag(done.folder / "level_0.h5")
        assert bag.coords is not None
        want = [pixels[y : y + side, x : x + side].mean(axis=(0, 1)) for x, y in bag.coords]
        assert np.abs(bag.features - np.array(want)).max() < (3 if jpeg else 1.5)
        assert len(bag.features) >= 448 * 640 // side**2
