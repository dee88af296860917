"""What people download in place of weights is called by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from spade_bench.encoders.common.timmodel import read_state
from spade_bench.encoders.spade.release.releasefiles import read_checkpoint
from spade_bench.errors import WeightsError
from spade_bench.registry import encoders
from spade_bench.types import LoadOptions

IMPOSTORS = {
    "git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n",
    "web page": b"\n<!DOCTYPE html><html><head><title>Log in</title></head></html>",
    "empty": b"",
    "refusal": b'{"error":"Access to model is restricted"}',
}


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".safetensors", ".pth"])
@pytest.mark.parametrize("kind", IMPOSTORS)
def test_impostors_are_not_a_checkpoint(kind: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(IMPOSTORS[kind])
    for read in (lambda: read_state(path, ()), lambda: read_checkpoint(path, 0)):
        with pytest.raises(WeightsError, match=f"not a checkpoint: it is .*{kind}") as error:
            read()
        assert str(error.value).endswith(".")


@pytest.mark.parametrize("content", [b"\x80\x04junk", b"PK\x03\x04junk", b"\xff" * 64, b"x"])
def test_anything_else_unreadable_is_no_readable_checkpoint(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="not a readable checkpoint"):
        read_state(path, ())


@pytest.mark.parametrize("name", ["spade", "tangle", "bleep"])
def test_missing_folders_say_how_to_give_them(name: str) -> None:
    with pytest.raises(WeightsError, match=f"--weights {name}=FOLDER"):
        encoders.get(name).load(LoadOptions())
