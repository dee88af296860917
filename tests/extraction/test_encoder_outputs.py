"""What an encoder returns is held against its card, wherever encoders are called."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from spade_bench.errors import DataError, PluginError
from spade_bench.extraction.feature_bags import encode_bags
from spade_bench.extraction.outputs import checked_encode
from spade_bench.features.bags import write_features
from spade_bench.plugins import contained
from spade_bench.types import EncoderCard

CARD = EncoderCard("mine", "features", 3, description="d", upstream="any")


def encoder(made: Callable[[Any], Any]) -> Any:
    return SimpleNamespace(card=CARD, dim=3, encode=made)


BROKEN: dict[str, tuple[Callable[[Any], Any], str]] = {
    "width": (lambda x: np.zeros((len(x), 4)), "width 4, but its card says 3"),
    "rows": (lambda x: np.zeros((len(x) + 1, 3)), r"shape \(6, 3\) for 5 inputs"),
    "flat": (lambda x: np.zeros(len(x)), r"shape \(5,\)"),
    "nan": (lambda x: np.full((len(x), 3), np.nan), "NaN or infinity for 5 of 5"),
    "none": (lambda x: None, "shape|no array"),
    "text": (lambda x: [["a"] * 3] * len(x), "no array of numbers"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_outputs_that_contradict_the_card_are_refused(kind: str) -> None:
    made, said = BROKEN[kind]
    with pytest.raises(DataError, match=rf"encoder 'mine': returned .*({said})"):
        checked_encode(encoder(made))(np.zeros((5, 2)))


def test_a_plugin_that_exits_or_prints_is_contained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PluginError, match=r"encoder 'mine': called sys\.exit\(3\)"):
        checked_encode(encoder(lambda x: sys.exit(3)))(np.zeros((5, 2)))

    def loud(x: Any) -> Any:
        print("chatter")
        return np.ones((len(x), 3))

    assert checked_encode(encoder(loud))(np.zeros((5, 2))).dtype == np.float32
    assert capsys.readouterr().out == ""


def test_encode_writes_nothing_that_contradicts_the_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_features(tmp_path / "features_x" / "a.h5", np.ones((5, 2)), slide_id="a", encoder="x")
    done = encode_bags(
        encoder(BROKEN["width"][0]), tmp_path / "features_x", tmp_path / "out", recipe={}
    )
    assert len(done.failed) == 1
    assert "width 4" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.h5"))


def test_stdout_comes_back_after_plugins_in_many_threads(
    capsys: pytest.CaptureFixture[str],
) -> None:
    inside, leave = threading.Barrier(2), [threading.Event(), threading.Event()]

    def work(number: int) -> None:
        with contained("plugin"):
            inside.wait(10)
            print("chatter")
            leave[number].wait(10)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for event, thread in zip(leave, threads, strict=True):  # the first one in leaves first
        event.set()
        thread.join(10)
    print("result")
    shown = capsys.readouterr()
    assert shown.out == "result\n"
    assert shown.err == "chatter\nchatter\n"
