"""The contamination ledger: what is seen, what nobody says, and what is clean."""

from __future__ import annotations

import pytest

from spade_bench.cohorts.contamination import (
    HEST_BENCH,
    Provenance,
    contamination,
    hest_bench_seen,
    provenance,
)
from spade_bench.registry import encoders, tasks
from spade_bench.report.flags import meaning
from spade_bench.types import Case, Cohort, EncoderCard, TaskCard

UNKNOWN = "contamination:unknown"


def _task(*sources: str) -> TaskCard:
    return TaskCard("t", "classification", "t", "c", sources=sources)


@pytest.mark.parametrize(
    ("datasets", "undeclared", "source", "flags"),
    [
        (("TCGA",), (), "TCGA", ("contamination:TCGA",)),
        (("TCGA-COAD",), (), "TCGA", ("contamination:TCGA",)),
        (("tcga",), (), "TCGA-BRCA", ("contamination:TCGA-BRCA",)),
        (("TCGAX",), (), "TCGA", ()),
        (("ImageNet-1k",), (), "TCGA", ()),
        ((), (), "TCGA", ()),
        (None, (), "TCGA", (UNKNOWN,)),
        (("Providence (private)",), ("TCGA", "CPTAC"), "TCGA", (UNKNOWN,)),
        (("Providence (private)",), ("TCGA", "CPTAC"), "PANDA", ()),
        (("TCGA", "others, unnamed"), (), "PLCO", (UNKNOWN,)),
        (("TCGA",), ("HEST-1k",), "PLCO", ()),
        (("HEST-1k",), (), "HEST-Bench", ("contamination:HEST-Bench",)),
        (("Camelyon",), (), "CAMELYON16", ("contamination:CAMELYON16",)),
        (("TCGA",), (), "private", (UNKNOWN,)),
    ],
)
def test_data_sets_are_matched(
    datasets: tuple[str, ...] | None,
    undeclared: tuple[str, ...],
    source: str,
    flags: tuple[str, ...],
) -> None:
    assert contamination(Provenance(datasets, undeclared), _task(source)) == flags


def test_no_sources_means_unknown_and_simulated_data_have_their_own() -> None:
    assert contamination(("TCGA",), _task()) == (UNKNOWN,)
    assert contamination(("TCGA",), _task("TCGA"), simulated=True) == ()
    assert contamination(("private corpus",), _task("TCGA"), simulated=True) == ()


def test_one_seen_and_one_unknown_source_are_both_said() -> None:
    seen = Provenance(("TCGA",), ("CPTAC",))
    assert contamination(seen, _task("TCGA", "CPTAC")) == ("contamination:TCGA", UNKNOWN)


def test_own_samples_and_patients_are_found_by_name() -> None:
    cohort = Cohort("c", (Case("HTA9-1", ("TENX128", "s2")), Case("Patient 1", ("s3",))))
    task = _task("elsewhere")
    samples = Provenance(("HEST-1k",), samples=("tenx128",))
    assert contamination(samples, task, cohort=cohort) == ("contamination:training-samples",)
    patients = Provenance(("HEST-1k",), patients=("HTA9-1",))
    assert contamination(patients, task, cohort=cohort) == ("contamination:training-patients",)
    # Every study has a "Patient 1".
    common = Provenance(("HEST-1k",), patients=("Patient 1",))
    assert contamination(common, task, cohort=cohort) == ()


def _spade(upstream: str | None, pretrained_on: tuple[str, ...] | None) -> EncoderCard:
    return EncoderCard(
        "spade", "features", 256, "d", upstream=upstream, pretrained_on=pretrained_on
    )


def test_a_chain_has_seen_what_each_link_has_seen() -> None:
    class Loaded:
        training_samples = ("INT1",)

    assert "TCGA" in (encoders.get("phikon").card.pretrained_on or ())
    over_phikon = provenance(_spade("phikon", ("HEST-1k",)), Loaded())
    assert contamination(over_phikon, _task("TCGA")) == ("contamination:TCGA",)
    assert contamination(over_phikon, _task("HEST-Bench")) == ("contamination:HEST-Bench",)
    assert over_phikon.samples == ("INT1",)
    over_lite = provenance(_spade("efficientnet-lite0", ("HEST-1k",)))
    assert contamination(over_lite, _task("TCGA")) == ()
    assert contamination(provenance(_spade("efficientnet-lite0", None)), _task("TCGA")) == (
        UNKNOWN,
    )


@pytest.mark.parametrize("base", [None, "any", "features-of-a-friend"])
def test_an_unknown_base_makes_the_chain_unknown_but_not_what_is_certain(base: str | None) -> None:
    chain = provenance(_spade(base, ("HEST-1k",)))
    assert contamination(chain, _task("TCGA")) == (UNKNOWN,)
    assert contamination(chain, _task("PLCO")) == (UNKNOWN,)
    assert contamination(chain, _task("HEST-Bench")) == ("contamination:HEST-Bench",)


def test_the_cards_that_ship_are_judged_as_their_authors_say() -> None:
    found = {
        (encoder, task): contamination(provenance(encoders.get(encoder).card), tasks.get(task).card)
        for encoder in ("uni", "phikon", "gigapath", "plip", "efficientnet-lite0")
        for task in ("crc_msi", "panda", "camelyon16")
    }
    assert found["uni", "crc_msi"] == found["uni", "panda"] == ()
    assert found["phikon", "crc_msi"] == ("contamination:TCGA",)
    assert found["phikon", "panda"] == ()
    assert found["gigapath", "crc_msi"] == ()
    assert found["plip", "crc_msi"] == (UNKNOWN,)
    assert found["efficientnet-lite0", "camelyon16"] == ()


def test_hest_bench_samples_of_the_paper_s_filter_are_counted() -> None:
    visium = ("PRAD", "READ", "ccRCC", "LYMPH_IDC")
    assert sum(len(HEST_BENCH[task]) for task in visium) == 55
    # The pretraining filter leaves INT17 out and keeps the other 54.
    kept = [name for task in visium for name in HEST_BENCH[task] if name != "INT17"]
    found = hest_bench_seen(kept)
    assert found["ccRCC"] == (23, 24)
    assert sum(seen for seen, _ in found.values()) == 54
    assert hest_bench_seen(["TENX95", "TENX1"]) == {"IDC": (1, 4)}  # of Xenium


@pytest.mark.parametrize(
    ("technologies", "flags"),
    [
        ((), ()),
        (("Visium",), ()),
        (("Xenium",), ("trained-on:Xenium",)),
        (("Visium", "Xenium"), ("trained-on:Visium", "trained-on:Xenium")),
    ],
)
def test_rows_say_the_technologies_of_training(
    technologies: tuple[str, ...], flags: tuple[str, ...]
) -> None:
    class Loaded:
        training_technologies = technologies

    seen = provenance(_spade("efficientnet-lite0", ("HEST-1k",)), Loaded())
    assert contamination(seen, _task("TCGA")) == flags
    assert all(meaning(flag) for flag in flags)
