"""The sentence that pretraining ends with."""

from __future__ import annotations

from typing import Any

import pytest

from spade_bench.encoders.spade.pretraining.validation.validationtables import verdict


def _report(ends: dict[str, tuple[float, float]], split: str = "test", gap: float = -0.1) -> Any:
    def nest(figures: dict[str, dict[str, float]]) -> Any:
        return {way: {"mean_percentile": figure} for way, figure in figures.items()}

    spade = {way: {"value": sum(e) / 2, "low": e[0], "high": e[1]} for way, e in ends.items()}
    part = {
        "n_spots": 1234,
        "n_samples": 3,
        "methods": {"spade": nest(spade), "chance": nest({way: {"value": 0.5} for way in ends})},
        "differences": {"spade - untrained": nest({way: {"high": gap} for way in ends})},
    }
    return {"splits": {split: part}}


GOOD, BAD = (0.2, 0.3), (0.45, 0.52)


@pytest.mark.parametrize(
    ("one", "two", "words"),
    [
        (GOOD, GOOD, "is better than chance:"),
        (BAD, BAD, "is not better than chance:"),
        (GOOD, BAD, "is better than chance in one direction only:"),
        ((0.6, 0.7), (0.6, 0.7), "is not better than chance:"),
    ],
)
def test_it_follows_the_intervals(
    one: tuple[float, float], two: tuple[float, float], words: str
) -> None:
    text = verdict(_report({"image_to_expression": one, "expression_to_image": two}))
    assert text.startswith(f"Held-out retrieval {words}")
    assert f"[{one[0]:.3f}, {one[1]:.3f}]" in text
    assert "1,234 test spots of 3 samples" in text
    assert "chose" not in text
    assert text.endswith("It is better than with untrained heads.")


def test_it_says_what_the_split_chose_and_what_training_adds() -> None:
    ways = {"image_to_expression": GOOD, "expression_to_image": GOOD}
    text = verdict(_report(ways, "val", gap=0.01))
    assert "this split also chose the epochs" in text
    assert text.endswith("It is not better than with untrained heads.")
    both = _report(ways, "val") | {"splits": _report(ways, "val")["splits"]
                                   | _report(ways, "test")["splits"]}  # fmt: skip
    assert "test spots" in verdict(both)


@pytest.mark.parametrize(
    ("gaps", "words"),
    [
        (((0.0, 0.0), (0.0, 0.0)), "kept the heads of the single expert (K = 1) and add nothing"),
        (((-0.1, -0.05), (-0.2, -0.1)), "are better than a single one (K = 1)."),
        (((-0.1, -0.05), (-0.2, 0.1)), "are better than a single one (K = 1) in one direction."),
        (((0.1, 0.2), (0.1, 0.3)), "are worse than a single one (K = 1)."),
        (((0.1, 0.2), (-0.1, 0.3)), "are worse than a single one (K = 1) in one direction."),
        (((0.1, 0.2), (-0.3, -0.1)), "in one direction, worse in one."),
        (((-0.1, 0.2), (0.0, 0.0)), "and a single one (K = 1) cannot be told apart."),
    ],
)
def test_it_says_whether_several_experts_do_better_than_one(
    gaps: tuple[tuple[float, float], ...], words: str
) -> None:
    ways = ("image_to_expression", "expression_to_image")
    report = _report(dict.fromkeys(ways, GOOD))
    report["splits"]["test"]["differences"]["spade - k1"] = {
        way: {"mean_percentile": {"low": low, "high": high}}
        for way, (low, high) in zip(ways, gaps, strict=True)
    }
    text = verdict(report)
    assert "than with untrained heads. The experts " in text
    assert words in text.partition("untrained heads. ")[2]


def test_a_strip_of_a_section_says_nothing_of_other_patients() -> None:
    ways = {"image_to_expression": GOOD, "expression_to_image": GOOD}
    report = _report(ways)
    assert "other patients" not in verdict(report)
    report["splits"]["test"]["blocks"] = True
    assert "in blocks of sections that train: nothing is said of other patients" in verdict(report)


def test_without_scores_it_says_why() -> None:
    assert verdict({"splits": {}}) == (
        "Held-out retrieval says nothing: there are no held-out samples."
    )
    untrained = {"splits": {}, "not_scored": "experts 3 are not trained"}
    assert verdict(untrained) == "Held-out retrieval says nothing: experts 3 are not trained."
