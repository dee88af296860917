"""Which patch files make a slide."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from spade_bench.errors import DataError, UserError
from spade_bench.extraction import group_patches


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def _ids(root: Path, group_by: str = "auto") -> dict[str, int]:
    return {group.slide_id: len(group.files) for group in group_patches(root, group_by)[0]}


def test_one_folder_a_slide(tmp_path: Path) -> None:
    _touch(tmp_path, "a/0.png", "a/1.png", "b/0.png", "b/.hidden.png", "b/notes.txt")
    assert _ids(tmp_path) == {"a": 2, "b": 1}


def test_positions_in_names_are_no_slides(tmp_path: Path) -> None:
    names = [f"s{k}/{x}_{y}.png" for k in range(2) for x in (0, 224) for y in (0, 224)]
    _touch(tmp_path, *names, "s2/tile_x0_y224.png", "s2/tile_x224_y0.png")
    assert _ids(tmp_path) == {"s0": 4, "s1": 4, "s2": 2}


def test_prefixes_make_slides_where_a_folder_holds_several(tmp_path: Path) -> None:
    names = [f"TCGA-AA-000{k}-01Z-00-DX1_{x}_{y}.jpg" for k in (1, 2) for x in (0, 9) for y in (3,)]
    groups, rule = group_patches(_touch(tmp_path, *names))
    assert rule == "file-name prefix"
    assert [group.slide_id for group in groups] == [
        "TCGA-AA-0001-01Z-00-DX1",
        "TCGA-AA-0002-01Z-00-DX1",
    ]
    assert groups[0].case_id == "TCGA-AA-0001"


def test_equal_names_in_several_folders_do_not_collide(tmp_path: Path) -> None:
    names = [f"set/{s}/{c}/{k}_{roi}_507.jpg" for s in ("train", "test") for c in "AB"
             for k in (0, 1) for roi in (0, 1)]  # fmt: skip
    groups, _ = group_patches(_touch(tmp_path, *names))
    assert [group.slide_id for group in groups][:2] == ["test_A_0", "test_A_1"]
    assert len({group.case_id for group in groups}) == 8
    assert {(group.split, group.label) for group in groups} == {
        ("train", "A"), ("train", "B"), ("test", "A"), ("test", "B"),
    }  # fmt: skip


def test_names_joined_to_the_same_text_are_refused(tmp_path: Path) -> None:
    _touch(tmp_path, "a/b_c/s/0.png", "a_b/c/s/0.png")
    with pytest.raises(DataError, match=r"called 'a_b_c_s', that of 'a/b_c/s/0\.png' and"):
        group_patches(tmp_path)


def test_a_pattern_decides_slide_case_and_label(tmp_path: Path) -> None:
    _touch(tmp_path, "tumor/P1-S1-0.png", "normal/P1-S1-1.png", "tumor/P1-S2-0.png")
    pattern = r"(?P<slide>(?P<case>P\d)-S\d)"
    groups, rule = group_patches(tmp_path, pattern)
    assert rule == "regular expression"
    assert [(g.slide_id, g.case_id, len(g.files)) for g in groups] == [
        ("P1-S1", "P1", 2), ("P1-S2", "P1", 1),
    ]  # fmt: skip
    with pytest.raises(UserError, match="does not match"):
        group_patches(tmp_path, r"(?P<slide>Q\d)")
    with pytest.raises(UserError, match="unknown rule 'files'"):
        group_patches(tmp_path, "files")


def test_files_stand_in_natural_order(tmp_path: Path) -> None:
    groups, _ = group_patches(_touch(tmp_path, "s/p10.png", "s/p9.png", "s/p1.png"))
    assert [file.name for file in groups[0].files] == ["p1.png", "p9.png", "p10.png"]


def test_images_in_the_folder_itself_are_one_slide(tmp_path: Path) -> None:
    assert _ids(_touch(tmp_path / "mine", "0.png", "1.png")) == {"mine": 2}
    with pytest.raises(DataError, match="no image files"):
        group_patches(_touch(tmp_path / "none", "a.txt"))


def test_tcga_lung_patches(shared_data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(shared_data / "tcga_luadlusc_rois" / "tcga_luadlusc.zip") as archive:
        archive.extractall(tmp_path)
    groups, _ = group_patches(tmp_path)
    assert len(groups) == 19
    assert {len(group.files) for group in groups} == {10}
    train = [group for group in groups if group.split == "train"]
    assert len(train) == 13
    assert sum(group.label == "LUAD" for group in train) == 7
    assert groups[0].slide_id == "test_LUAD_0"


def test_a_pattern_that_joins_folders_says_so_and_odd_names_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{s}/{c}/{k}_{n}.jpg" for s in ("train", "test") for c in "AB"
             for k in (0, 1) for n in (0, 1)]  # fmt: skip
    _touch(tmp_path, *names)
    assert _ids(tmp_path, r"(?P<slide>\d)_\d") == {"0": 8, "1": 8}
    said = " ".join(capsys.readouterr().err.split())
    assert "2 of 2 slides join images of several folders, such as '0' those of test/A, test" in said
    assert len(_ids(tmp_path, "prefix")) == 8
    assert not capsys.readouterr().err
    for pattern in (r"(?P<slide>\w+/\w)/", r"(?P<slide>/\w/)"):
        with pytest.raises(UserError, match="which no feature file can be called"):
            group_patches(tmp_path, pattern)
