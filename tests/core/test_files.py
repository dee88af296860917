"""Files are whole or absent; hashes name content."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spade_bench import files
from spade_bench.errors import DataError, machine_fault
from spade_bench.files import atomic_dir, atomic_path


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    files.write_json(target, {"x": 1})
    with pytest.raises(RuntimeError, match="killed"), files.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("killed")
    assert files.read_json(target) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_folder_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with files.atomic_dir(target) as folder:
        (folder / "a").write_text("1")
    with pytest.raises(RuntimeError, match="killed"), files.atomic_dir(target) as folder:
        (folder / "a").write_text("2")
        raise RuntimeError("killed")
    assert (target / "a").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_json_holds_arrays_and_no_nan(tmp_path: Path) -> None:
    files.write_json(
        tmp_path / "a.json", {"a": np.arange(2), "b": float("nan"), "c": (1, Path("x"))}
    )
    assert files.read_json(tmp_path / "a.json") == {"a": [0, 1], "b": None, "c": [1, "x"]}


@pytest.mark.parametrize("text", [b"{", b"\xff", b"[" * 100_000, b"1" * 5000], ids=len)
def test_bad_json_is_one_line(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(DataError, match="not valid JSON"):
        files.read_json(tmp_path / "a.json")
    with pytest.raises(DataError, match="no such file"):
        files.read_json(tmp_path / "b.json")


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=5))
def test_hash_ignores_the_order_of_keys(mapping: dict[str, int | str]) -> None:
    turned = dict(reversed(list(mapping.items())))
    assert files.hash_obj(mapping) == files.hash_obj(turned)
    assert files.hash_obj(mapping) != files.hash_obj({**mapping, "another key": 0})


def test_array_hash_sees_shape_and_type() -> None:
    a = np.zeros(6, dtype=np.float32)
    hashes = {files.hash_array(x) for x in (a, a.reshape(2, 3), a.astype(np.int32), a + 1)}
    assert len(hashes) == 4


@pytest.mark.parametrize("writer", [atomic_path, atomic_dir])
def test_a_full_disk_is_named_by_what_was_to_be_written(
    tmp_path: Path, writer: Callable[[Path], contextlib.AbstractContextManager[Path]]
) -> None:
    """A write says neither file nor disk, and there may be several of both."""
    target = tmp_path / "results.zip"
    with pytest.raises(OSError, match="No space") as caught, writer(target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(machine_fault(caught.value)).startswith(f"{target}: the disk is full. Free some")
    assert list(tmp_path.iterdir()) == []
