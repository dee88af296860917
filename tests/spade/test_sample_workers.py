"""Samples are worked on by several processes with the result of one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from spade_bench.encoders.spade.pretraining.prepare import sampleworkers
from spade_bench.encoders.spade.pretraining.prepare.sampleworkers import (
    MOST_WORKERS,
    work_ahead,
    workers_for,
)
from spade_bench.files import write_json


@pytest.fixture
def two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampleworkers, "_WORTH", 1)
    monkeypatch.setattr(sampleworkers, "MOST_WORKERS", 2)


def test_each_job_is_done_once_by_one_of_the_processes(tmp_path: Path, two_workers: None) -> None:
    jobs = [(tmp_path / f"{number}.json", number) for number in range(7)]
    work_ahead("writing", write_json, jobs, 2)
    assert [json.loads(path.read_text()) for path, _ in jobs] == list(range(7))


def test_how_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampleworkers, "_WORTH", 8)
    monkeypatch.setattr(sampleworkers, "MOST_WORKERS", MOST_WORKERS)
    assert workers_for(300, 1) == 0  # this process alone
    assert workers_for(10, 8) == 0  # too few to be worth a start
    assert workers_for(300, 64) == MOST_WORKERS
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert workers_for(300) == (min(MOST_WORKERS, cores or 1) if cores != 1 else 0)
