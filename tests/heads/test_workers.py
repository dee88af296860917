"""Spreading models over cores: jobs of one owner keep their order, and no error is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch

from spade_bench.heads.training.workers import Workers


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    before = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with Workers(torch.device("cpu")) as made:
        yield made
    torch.set_num_threads(before)


def test_jobs_of_an_owner_keep_their_order_and_others_do_not_wait(workers: Workers) -> None:
    told: list[str] = []
    gate = threading.Event()

    def slow() -> None:
        assert gate.wait(10)
        told.append("slow 1")

    def note(name: str) -> Callable[[], None]:
        return partial(told.append, name)

    workers.start([(slow, ["a"]), (note("quick 1"), ["b"])], large=True)
    opener = threading.Thread(target=lambda: (time.sleep(0.2), gate.set()))
    opener.start()
    # The second step of `b` may run before the first of `a` is through; that of `a` may not.
    workers.start([(note("quick 2"), ["b"]), (note("slow 2"), ["a"])], large=True)
    workers.wait()
    opener.join()
    assert told == ["quick 1", "quick 2", "slow 1", "slow 2"]


def test_small_jobs_follow_what_still_runs(workers: Workers) -> None:
    told: list[int] = []
    workers.start([(lambda: (time.sleep(0.05), told.append(1)), ["a"])] * 2, large=True)
    workers.start([(partial(told.append, 2), ["a"])], large=False)
    assert told == [1, 1, 2]


def test_a_job_that_is_alone_runs_here_with_all_of_torchs_threads(workers: Workers) -> None:
    where: list[threading.Thread] = []
    workers.start([(lambda: where.append(threading.current_thread()), ["a"])], large=True)
    assert where == [threading.current_thread()]


def test_an_error_in_a_job_is_raised(workers: Workers) -> None:
    def fail() -> None:
        raise ValueError("no such bag")

    workers.start([(fail, ["a"]), (lambda: None, ["b"])], large=True)
    with pytest.raises(ValueError, match="no such bag"):
        workers.wait()
