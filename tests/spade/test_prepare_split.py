"""The split keeps patients together, organs balanced and singletons in training."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_bench.encoders.spade.pretraining.prepare.split import Member, split_samples
from spade_bench.encoders.spade.pretraining.pretrainconfig import SplitConfig
from spade_bench.errors import ConfigError

ORGANS = st.sampled_from(["Skin", "Lung", "Breast", "unknown"])
PATIENTS = st.one_of(st.none(), st.sampled_from([f"P{i}" for i in range(8)]))
COHORTS = st.lists(st.tuples(ORGANS, PATIENTS), min_size=1, max_size=40).map(
    lambda rows: [Member(f"S{i:02}", organ, patient) for i, (organ, patient) in enumerate(rows)]
)


@settings(max_examples=200, deadline=None)
@given(COHORTS, st.integers(0, 5), st.randoms())
def test_no_patient_on_both_sides_and_order_does_not_matter(
    members: list[Member], seed: int, random: object
) -> None:
    split = split_samples(members, SplitConfig(), seed).split
    sides: dict[str, set[str]] = {}
    for member in members:
        if member.patient:
            sides.setdefault(member.patient, set()).add(split[member.sample_id])
    assert all(len(side) == 1 for side in sides.values())
    shuffled = list(members)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert split_samples(shuffled, SplitConfig(), seed).split == split
    groups = len({m.patient or m.sample_id for m in members})
    assert ("val" in split.values()) == (groups > 1)
    assert "train" in split.values()


@settings(max_examples=50, deadline=None)
@given(st.lists(ORGANS, min_size=20, max_size=120), st.integers(0, 3))
def test_unpaired_samples_give_ten_per_cent_stratified_by_organ(
    organs: list[str], seed: int
) -> None:
    members = [Member(f"S{i:03}", organ) for i, organ in enumerate(organs)]
    split = split_samples(members, SplitConfig(), seed).split
    total, val = Counter(organs), Counter()
    for member in members:
        val[member.organ] += split[member.sample_id] == "val"
    assert sum(val.values()) == round(0.1 * len(organs))
    for organ, n in total.items():
        assert abs(val[organ] - 0.1 * n) <= 1
        assert val[organ] < n
        if n == 1:
            assert val[organ] == 0


def test_other_seeds_give_other_splits() -> None:
    members = [Member(f"S{i}", "Skin") for i in range(30)]
    chosen = {
        frozenset(
            s for s, v in split_samples(members, SplitConfig(), seed).split.items() if v == "val"
        )
        for seed in range(5)
    }
    assert len(chosen) > 1


def test_tiny_cohort_validates_on_its_smallest_group() -> None:
    members = [Member(f"A{i}", "Breast", "A") for i in range(4)]
    members += [Member(f"B{i}", "Skin", "B") for i in range(2)]
    split = split_samples(members, SplitConfig()).split
    assert {s for s, v in split.items() if v == "val"} == {"B0", "B1"}


def test_one_patient_gives_no_validation_and_says_so() -> None:
    result = split_samples([Member("A0", "Skin", "A"), Member("A1", "Skin", "A")], SplitConfig())
    assert set(result.split.values()) == {"train"}
    assert "no validation split" in result.notes[0]
    assert split_samples([Member("A0", "Skin")], SplitConfig(val_fraction=0)).notes == ()


def test_test_split_is_what_the_config_names_and_shared_patients_are_said() -> None:
    members = [Member(f"C{i}", "Breast", "C") for i in range(4)] + [Member("B0", "Breast", "B")]
    by_sample = split_samples(members, SplitConfig(test_samples=("C0",)))
    assert by_sample.split == {
        "C0": "test",
        "C1": "train",
        "C2": "train",
        "C3": "train",
        "B0": "val",
    }
    assert "C0 is of C, whose other 3 samples" in by_sample.notes[0]
    by_patient = split_samples(members, SplitConfig(test_patients=("C",)))
    assert Counter(by_patient.split.values()) == {"test": 4, "train": 1}
    assert not any("whose other" in note for note in by_patient.notes)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (SplitConfig(test_samples=("X",)), "no prepared sample named X"),
        (SplitConfig(test_patients=("X",)), "no prepared patient named X"),
        (SplitConfig(val_fraction=1.0), "val_fraction"),
        (SplitConfig(test_patients=("C",)), "every sample is held out"),
    ],
)
def test_impossible_splits_are_refused(config: SplitConfig, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        split_samples([Member("C0", "Breast", "C")], config)
