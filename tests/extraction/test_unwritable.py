"""Where nothing can be written, an extraction ends at once in one line, and nothing crashes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image

from spade_bench.cli.main import main
from spade_bench.errors import DataError, SystemFaultError, UserError
from spade_bench.extraction import EncoderSource, Settings, extract_slides
from spade_bench.features.bags import find_bags, write_features
from spade_bench.features.slidevectors import write_slide_vector
from spade_bench.files import atomic_hdf5
from spade_bench.types import EncoderCard

CARD = EncoderCard("colour", "image", 3, "d", patch_px=32, mpp=0.5)


class Colour:
    """The mean colour of a patch."""

    card = CARD

    def encode(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(images, dtype=np.float32).mean(axis=(1, 2))


def slides(folder: Path, n: int = 4) -> Path:
    folder.mkdir()
    for i in range(n):
        rng = np.random.default_rng(i)
        pixels = np.array([170, 90, 150]) + rng.integers(-30, 31, (128, 128, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"s{i}.png")
    return folder


def extract(folder: Path, out: Path, **settings: object) -> None:
    made = Settings(**{"workers": 1, "assume_mpp": 0.5, "preview": False, **settings})
    extract_slides(folder, EncoderSource(Colour()), out, settings=made)


@pytest.mark.parametrize("where", ["out", "out/below"])
def test_out_that_is_a_file_is_said_once(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SystemFaultError, match="a file is where a folder is needed"):
        extract(slides(tmp_path / "s"), tmp_path / where)
    assert "skipped" not in capsys.readouterr().err


def test_a_disk_that_fills_up_ends_the_extraction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, written = Path.write_bytes, []

    def full(path: Path, content: bytes) -> int:
        if path.suffix == ".h5" and written:
            raise OSError(28, os.strerror(28), str(path))
        written.append(path)
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SystemFaultError, match=r"the disk is full\. Free some space"):
        extract(slides(tmp_path / "s"), tmp_path / "out")
    assert "skipped" not in capsys.readouterr().err
    monkeypatch.undo()
    assert list(find_bags(tmp_path / "out")) == ["s0"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.ENOTDIR])
def test_an_encoding_that_cannot_be_written_ends_at_once(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        path = tmp_path / "features_mine" / f"s{i}.h5"
        write_features(path, np.ones((4, 3)) * i, slide_id=f"s{i}", encoder="mine")

    def full(path: Path, content: bytes) -> int:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    argv = ["encode", "--encoder", "mean-pool", "--features", str(tmp_path / "features_mine")]
    with pytest.raises(SystemExit) as ended:
        main([*argv, "--out", str(tmp_path / "out"), "--device", "cpu"])
    assert ended.value.code == 2
    lines = [
        line for line in capsys.readouterr().err.splitlines() if "error" in line or "s1" in line
    ]
    assert len(lines) == 1


_LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
import numpy as np
from pathlib import Path
from spade_bench.features.bags import write_features
from spade_bench.features.slidevectors import write_slide_vector
from spade_bench.files import atomic_hdf5
for write in (
    lambda path: write_features(path, np.ones((500, 64)), slide_id="s", encoder="e"),
    lambda path: write_slide_vector(path, np.ones(50000), slide_id="s", encoder="e"),
):
    try:
        write(Path(sys.argv[1]) / "x.h5")
    except OSError as error:
        print("refused", error.errno)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("size", [0, 2000, 60_000])
def test_an_hdf5_file_that_does_not_fit_is_an_error_and_no_crash(size: int, tmp_path: Path) -> None:
    code = _LIMITED.format(size=size)
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout.split()[::2]) == (0, ["refused", "refused"])
    assert list(tmp_path.iterdir()) == []


def test_files_made_in_memory_are_the_same_files(tmp_path: Path) -> None:
    path = write_features(
        tmp_path / "a.h5", np.ones((5, 3)), np.ones((5, 2)), slide_id="s", encoder="e"
    )
    with h5py.File(path) as file:
        assert file["features"].shape == (5, 3)
        assert file["features"].attrs["encoder"] == "e"
    write_slide_vector(tmp_path / "b.h5", np.ones(3), slide_id="s", encoder="e")
    with pytest.raises(DataError, match="Not finite"), atomic_hdf5(path) as file:
        file["x"] = 1
        raise DataError("not finite")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "b.h5"]
    with h5py.File(path) as file:
        assert "x" not in file


@pytest.mark.parametrize(("first", "then"), [(None, 1), (0, 1), (1, 0), (1, None)])
def test_another_image_of_a_file_does_not_replace_the_first(
    first: int | None, then: int | None, tmp_path: Path
) -> None:
    (tmp_path / "s").mkdir()
    rng = np.random.default_rng(0)
    with tifffile.TiffWriter(tmp_path / "s" / "x.ome.tif", ome=True) as writer:
        for side in (256, 320):
            pixels = np.array([170, 90, 150]) + rng.integers(-30, 31, (side, side, 3))
            size = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5,
                    "PhysicalSizeYUnit": "µm", "axes": "YXS"}  # fmt: skip
            writer.write(pixels.astype(np.uint8), photometric="rgb", tile=(128, 128), metadata=size)
    extract(tmp_path / "s", tmp_path / "out", series=first, assume_mpp=None)
    (path,) = find_bags(tmp_path / "out").values()
    before = path.read_bytes()
    said = f"holds features of image {first or 0} of .*, and image {then or 0} is asked for"
    with pytest.raises(UserError, match=said):
        extract(tmp_path / "s", tmp_path / "out", series=then, assume_mpp=None)
    assert path.read_bytes() == before
    extract(tmp_path / "s", tmp_path / "other", series=then, assume_mpp=None)
