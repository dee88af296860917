"""Real sections: patches of HEST are extracted from a task folder as the benchmark lays it out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spade_bench as sb
from spade_bench.cohorts.published.hestbench import hest_card, read_sections
from spade_bench.errors import DataError
from spade_bench.evaluation.spots.sectiondata import chosen_genes, read_section_data
from spade_bench.types import EncoderCard


class Colour:
    """The mean colour of a patch."""

    card = EncoderCard("colour", "image", 3, "Colour.", patch_px=224, mpp=0.5, pretrained_on=())

    def encode(self, images: Any) -> Any:
        import torch

        return torch.as_tensor(images).float().mean(dim=(1, 2))  # (n, 224, 224, 3) -> (n, 3)


@pytest.fixture
def bench(shared_data: Path, tmp_path: Path) -> Path:
    """A task of two real sections of two patients, one of which has its patches."""
    her2st, task = shared_data / "hest_her2st", tmp_path / "bench" / "HER"
    for name in ("adata", "patches", "splits"):
        (task / name).mkdir(parents=True)
    for sample in ("SPA141", "SPA145"):
        shutil.copy(her2st / "st" / f"{sample}.h5ad", task / "adata")
    shutil.copy(her2st / "patches" / "SPA141.h5", task / "patches")
    shutil.copy(her2st / "HEST_v1_1_0.csv", task.parent)
    for number, (train, test) in enumerate([("SPA141", "SPA145"), ("SPA145", "SPA141")]):
        for side, sample in (("train", train), ("test", test)):
            (task / "splits" / f"{side}_{number}.csv").write_text(
                "sample_id,patches_path,expr_path\n"
                f"{sample},patches/{sample}.h5,adata/{sample}.h5ad\n"
            )
    return task


def test_a_task_folder_of_the_benchmark_is_read(bench: Path) -> None:
    sections = read_sections(bench)
    assert sections.splits == ((("SPA141",), ("SPA145",)), (("SPA145",), ("SPA141",)))
    assert sections.patient_of == {"SPA141": "Patient C", "SPA145": "Patient B"}
    assert not sections.nameless
    assert hest_card(bench).sources == ("HEST-1k",)
    assert sections.genes is None
    data = read_section_data(sections)
    genes = chosen_genes(data[:1], 50)
    assert len(set(genes)) == 50
    # What is chosen on one section says nothing of the other.
    assert genes != chosen_genes(data[1:], 50)
    for one in data:
        target = one.target(genes, "lognorm")
        assert target.shape == (len(one.barcodes), 50)
        counts = np.expm1(one.target(genes, "log1p"))
        assert np.abs(counts - np.rint(counts)).max() < 1e-3 * counts.max()


def test_its_patches_are_extracted_without_a_slide(bench: Path, tmp_path: Path) -> None:
    done = sb.extract(hest=bench, encoder=Colour(), out=tmp_path / "features")
    assert (list(done.done), list(done.failed)) == (["SPA141"], ["SPA145"])
    data = sb.read_features(done.folder)
    assert data.n_obs > 150
    assert data.obs["barcode"].nunique() == data.n_obs


def test_a_split_that_names_a_missing_file_is_one_line(bench: Path) -> None:
    (bench / "adata" / "SPA145.h5ad").unlink()
    with pytest.raises(DataError, match=r"expr_path of SPA145 is not there"):
        read_sections(bench)


def test_a_split_with_a_section_on_both_sides_is_refused(bench: Path) -> None:
    shutil.copy(bench / "splits" / "train_0.csv", bench / "splits" / "test_0.csv")
    with pytest.raises(DataError, match="split 0 trains and tests on SPA141"):
        read_sections(bench)
