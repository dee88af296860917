"""Names that are kept back: still found by who has them, unreadable for who has not."""

from __future__ import annotations

from spade_bench.cohorts.contamination import Provenance, contamination, leaks_of_fold
from spade_bench.cohorts.hiddennames import WITHHELD, KnownNames, is_hidden, new_salt, withheld
from spade_bench.types import Case, Cohort, Episode, TaskCard

TASK = TaskCard("t", "classification", "t", "c", sources=("elsewhere",))


def hide(*names: str) -> tuple[str, ...]:
    salt = new_salt()
    return tuple(withheld(name, salt) for name in names)


def test_a_hidden_name_is_found_by_its_name_only() -> None:
    hidden = hide("HTA9-1", "B-2")
    known = KnownNames(hidden)
    assert known.find(" hta9-1 ") == hidden[0]
    assert "B-2" in known
    assert "B-3" not in known
    assert not known.incomplete
    assert all(map(is_hidden, hidden))
    assert not any("hta9" in entry.casefold() for entry in hidden)


def test_two_salts_cannot_be_linked_and_may_stand_side_by_side() -> None:
    first, second = hide("HTA9-1"), hide("HTA9-1")
    assert first != second
    known = KnownNames((*first, *hide("X-77"), "Plain"))
    assert {"HTA9-1", "x-77", "plain"} <= {n for n in ("HTA9-1", "x-77", "plain") if n in known}


def test_the_ledger_says_of_hidden_names_what_it_says_of_plain_ones() -> None:
    cohort = Cohort("c", (Case("HTA9-1", ("TENX128", "s2")), Case("Patient 1", ("s3",))))
    for samples, patients in [
        (("tenx128",), ()), ((), ("HTA9-1",)), ((), ("Patient 1",)), ((), ("other",)),
    ]:  # fmt: skip
        plain = Provenance(("HEST-1k",), samples=samples, patients=patients)
        hidden = Provenance(("HEST-1k",), samples=hide(*samples), patients=hide(*patients))
        assert contamination(hidden, TASK, cohort=cohort) == contamination(
            plain, TASK, cohort=cohort
        )
    fold = Episode("e", ("a",), ("b",))
    owners = {"a": "P1", "b": "HTA9-2"}
    assert leaks_of_fold(Provenance(samples=hide("b")), fold, owners) == (
        "contamination:training-samples",
        "contamination:training-patients",
    )
    assert leaks_of_fold(Provenance(patients=hide("hta9-2")), fold, owners) == (
        "contamination:training-patients",
    )


def test_what_cannot_be_compared_is_unknown_never_clean() -> None:
    cohort = Cohort("c", (Case("HTA9-1", ("s1",)),))
    seen = Provenance(("HEST-1k",), samples=(WITHHELD,), patients=(WITHHELD,))
    assert contamination(seen, TASK, cohort=cohort) == ("contamination:unknown",)
    assert contamination(Provenance(("HEST-1k",)), TASK, cohort=cohort) == ()
