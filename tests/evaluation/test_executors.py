"""Executors on this machine: the same files and bits, whoever did the work and whoever died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_runs import FLAGS, assert_same, settings_of, written

from spade_bench import api, evaluation, spreading
from spade_bench.errors import ConfigError, DataError, UserError
from spade_bench.evaluation.runcontext import LEASES
from spade_bench.executors import ExecutorSettings, Unit, executor_settings
from spade_bench.executors.choosing import cards, cores, local_workers
from spade_bench.executors.following import remove_left
from spade_bench.executors.localprocesses import LocalProcesses
from spade_bench.executors.slurmjobs import write_script
from spade_bench.executors.workunits import Status, read_status, write_status
from spade_bench.features.bags import find_bags, read_bag
from spade_bench.leases import Leases
from spade_bench.unitworker import work

TWO = ExecutorSettings("local", workers=2)

PLUGIN = """
from spade_bench import EncoderCard
from spade_bench.registry import encoders

CARD = EncoderCard(name="brightness", input="image", dim=3, patch_px=8, mpp=0.5,
                   description="Mean of each colour.", licence="Apache-2.0", pretrained_on=())

class Brightness:
    card = CARD
    def encode(self, images):
        return (images.astype("float32") / 255).mean(axis=(1, 2))

@encoders.register(CARD)
def load(options):
    return Brightness()
"""


@pytest.mark.slow
def test_a_worker_is_killed_and_nothing_is_lost(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation.run_settings(settings_of(study, tmp_path / "plain"))
    out, killed = tmp_path / "out", []
    collect = LocalProcesses.collect

    def kill_one(self: Any) -> Any:
        if not killed and list(out.glob(f"{LEASES}/*.lease")):
            killed.append(next(iter(self._running.values())))
            killed[0].kill()
            killed[0].wait()
        return collect(self)

    monkeypatch.setattr(LocalProcesses, "collect", kill_one)
    results = api.evaluate(
        "mine", "toy", table=study.table, features=study.features, out=out, shots=(2, 4), draws=2,
        heads=("logistic", "mean-mlp"), device="cpu", executor={"name": "local", "workers": 2},
    )  # fmt: skip
    assert killed
    assert_same(tmp_path / "plain", out)
    assert set(written(out).values()) == {1}
    assert len(results.to_dataframe()) == len(written(out))
    assert not (out / "jobs").exists()
    assert not (out / LEASES).exists()
    said = capsys.readouterr().err
    assert "unit-0001 ended early (killed by SIGKILL)" in said
    assert "cells done" not in said  # what one worker did, which its log has
    assert said.count("toy: positive class: tumor") == 2  # by the plain run, and by one worker


def test_what_is_wrong_is_said_once_and_stops_all(study: Any, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(study.table.read_text().replace("case003-s0", "gone"))
    settings = settings_of(study, tmp_path / "out", tables=table)
    with pytest.raises(DataError) as plain:
        evaluation.run_settings(settings)
    with pytest.raises(DataError) as spread:
        spreading.run_spread(settings, None, ExecutorSettings("local", workers=1))
    assert str(spread.value) == str(plain.value)
    assert not (tmp_path / "out" / "jobs").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="processes are interrupted otherwise there")
def test_a_worker_that_is_ended_again_while_it_stops_leaves_nothing(
    study: Any, tmp_path: Path
) -> None:
    """By its starter, and by the watch for its starter, which is gone a moment later."""
    out, path = tmp_path / "out", tmp_path / "unit-0001.json"
    settings = settings_of(study, out, set={"mean-mlp": {"min_steps": 50000}})
    said = {name: getattr(settings, name) for name in settings.said()}
    arguments = {"settings": said, "workspace": None, "shard": (0, 1)}
    Unit("run", arguments, (0, 1), str(tmp_path)).write(path)
    worker = subprocess.Popen([sys.executable, "-m", "spade_bench.unitworker", str(path)])
    while not list(out.glob(f"{LEASES}/*.lease")):
        time.sleep(0.05)
        assert worker.poll() is None
    while worker.poll() is None:
        worker.send_signal(signal.SIGTERM)
        time.sleep(0.005)
    assert worker.returncode == 130
    assert read_status(path).state == "stopped"
    assert not list(out.glob(f"{LEASES}/*"))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="processes are interrupted otherwise there")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_stops_all(how: signal.Signals, study: Any, tmp_path: Path) -> None:
    """By Ctrl-C, or by a batch system whose time for the command is over."""
    out = tmp_path / "out"
    paths = ["--table", str(study.table), "--features", str(study.features), "--out", str(out)]
    # A shell that starts tests in the background has them ignore interruptions.
    heed = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    call = "from spade_bench.cli.main import main; main(sys.argv[1:])"
    program = f"import signal, sys; {heed}; {call}"
    parent = subprocess.Popen(
        [sys.executable, "-c", program, "run", *FLAGS, *paths,
         "--executor", "local", "--workers", "2", "--set", "mean-mlp.min_steps=50000"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not list(out.glob("jobs/*/unit-0002.status.json")):  # long before they have finished
        time.sleep(0.05)
        assert parent.poll() is None
    parent.send_signal(how)
    text = parent.communicate(timeout=60)[1]
    assert parent.returncode == 130, text
    assert "run the same command again to continue" in text
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert str(out) not in listed.stdout


def test_slides_are_shared_and_a_bad_one_is_named_once(tmp_path: Path) -> None:
    from PIL import Image

    from spade_bench import plugins
    from spade_bench.registry import encoders

    plugin = tmp_path / "brightness.py"
    plugin.write_text(PLUGIN)
    rng = np.random.default_rng(0)
    for slide in range(6):
        for patch in range(3):
            path = tmp_path / "patches" / f"s{slide}" / f"{patch}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    (tmp_path / "patches" / "s3" / "1.png").write_bytes(b"no image")
    if "brightness" not in encoders:
        plugins.load_file(plugin)
    more: Any = {"patches": tmp_path / "patches", "group_by": "folder", "assume_mpp": 0.5}
    plain = api.extract(encoder="brightness", out=tmp_path / "plain", **more)
    spread = api.extract(encoder="brightness", out=tmp_path / "out", executor=TWO, **more)
    assert spread.done == plain.done
    assert len(spread.done) == 5
    assert spread.failed == plain.failed
    made = find_bags(tmp_path / "out")
    for name, path in find_bags(tmp_path / "plain").items():
        assert read_bag(path).features.tobytes() == read_bag(made[name]).features.tobytes()
    again = api.extract(encoder="brightness", out=tmp_path / "out", executor=TWO, **more)
    assert (again.done, len(again.skipped), len(again.failed)) == ({}, 5, 1)
    assert not list((tmp_path / "out").rglob(LEASES))

    pooled = api.encode(tmp_path / "out", "mean-pool", out=tmp_path / "pooled", executor=TWO)
    alone = api.encode(tmp_path / "out", "mean-pool", out=tmp_path / "alone")
    assert pooled.written.keys() == alone.written.keys()
    for name, path in alone.written.items():
        mine = read_bag(path).features
        assert mine.tobytes() == read_bag(pooled.written[name]).features.tobytes()


def test_workers_on_other_machines_need_a_folder(study: Any) -> None:
    with pytest.raises(UserError, match="Workers need a folder to write to"):
        api.evaluate("mine", "toy", table=study.table, executor={"name": "slurm", "workers": 2})


def test_a_loaded_encoder_stays_here(tmp_path: Path) -> None:
    encoder = api.load_encoder("mean-pool")
    with pytest.raises(UserError, match="an encoder that is loaded here is not at hand"):
        api.encode(tmp_path, encoder, out=tmp_path / "out", executor="local")


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"value": "locl"}, "there is no executor 'locl'.*mean 'local'"),
        ({"value": "slurm"}, "how many jobs"),
        ({"value": "local", "slurm": "partition=a"}, "--slurm is an option of --executor slurm"),
        ({"value": "ray", "gpus": "all"}, "--gpus is an option of --executor local"),
        ({"value": "slurm", "workers": 2, "slurm": "array=1-3"}, "'array' is not for you"),
        ({"value": "slurm", "workers": 2, "slurm": "gpu"}, "cannot read 'gpu'"),
        ({"value": "ray", "ray": "gpu=1"}, "there is no 'gpu'.*mean 'gpus'"),
        ({"value": {"name": "local", "worker": 2}}, "worker"),
        *(
            ({"value": None, "gpus": g}, "no card of this machine")
            for g in ("7", "all,0", "²", ",", "0,", "-1")
        ),
        ({"value": "local", "workers": 0}, "0 workers do nothing"),
        ({"value": "local", "workers": 10**6}, "1000000 workers are too many.*at most"),
        ({"value": "slurm", "workers": 10**6}, "too many"),
        *(
            ({"value": "ray", "ray": f"gpus={g}"}, "--ray gpus: '.*' is no amount")
            for g in ("x", "-1", "nan", "inf", "1.5", "1e-300", "")
        ),
        *(
            (
                {"value": "ray", "ray": f"memory={m}"},
                "--ray memory: '.*' is not an amount of memory",
            )
            for m in ("0", "nanGB", "inf", "-1GB", "1XB", "1e30TB", "9" * 400 + "TB")
        ),
        ({"value": "ray", "ray": "gpus=1,cpus=2,gpus=2"}, "'gpus' is said twice"),
        ({"value": "slurm", "workers": 2, "slurm": "="}, "cannot read '='"),
        *(
            (
                {"value": {"name": "slurm", "workers": 2, "slurm": {"comment": c}}},
                "sbatch cannot read",
            )
            for c in ("a\nrm -rf x", 'a"b', None, False)
        ),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], match: str) -> None:
    with pytest.raises((UserError, ConfigError), match=match):
        settings = executor_settings(given.pop("value"), **given)
        assert settings is not None
        local_workers(settings)


def test_options_are_read() -> None:
    slurm = executor_settings(
        "slurm", workers=3, slurm="partition=gpu,gpus=1,nodelist=a,b,time=4:00:00"
    )
    assert slurm is not None
    assert slurm.slurm == {"partition": "gpu", "gpus": "1", "nodelist": "a,b", "time": "4:00:00"}
    assert executor_settings(None) is None
    assert executor_settings(None, workers=2) == TWO
    assert executor_settings({"name": "local", "workers": 2}) == TWO


def test_each_card_and_core_has_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    seats = local_workers(ExecutorSettings("local", gpus="all"))
    assert [seat["CUDA_VISIBLE_DEVICES"] for seat in seats] == ["GPU-a", "GPU-b"]
    four = local_workers(ExecutorSettings("local", gpus="all", workers=4))
    assert [seat["CUDA_VISIBLE_DEVICES"][-1] for seat in four] == ["a", "b", "a", "b"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert cards(None) == []
    one = local_workers(ExecutorSettings("local", workers=1))
    assert one == [{"OMP_NUM_THREADS": str(cores())}]
    many = local_workers(ExecutorSettings("local", workers=4 * cores()))
    assert [seat["OMP_NUM_THREADS"] for seat in many] == ["1"] * 4 * cores()


def test_a_unit_is_read_as_it_was_written(tmp_path: Path) -> None:
    unit = Unit("run", {"settings": {"shots": [1, 2]}}, (1, 3), str(tmp_path), ("a.py",))
    unit.write(tmp_path / "unit.json")
    assert Unit.read(tmp_path / "unit.json") == unit
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(DataError, match=r"no unit of work.*Start the command again"):
        Unit.read(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("before", "after"),
    [('"run"', '"rm"'), ("2", "3"), ('"a.py"', '"b.py"'), ('"settings"', '"s"')],
)
def test_a_unit_that_was_changed_before_its_worker_began_is_refused(
    tmp_path: Path, before: str, after: str
) -> None:
    path = tmp_path / "unit.json"
    Unit("run", {"settings": {"shots": [1, 2]}}, (0, 1), str(tmp_path), ("a.py",)).write(path)
    text = path.read_text()
    path.write_text(text.replace(before, after, 1))
    assert path.read_text() != text
    assert work(path) == 2
    status = read_status(path)
    assert (status.state, status.bug) == ("failed", False)
    assert "unit.json: damaged or edited" in str(status.failure())


def test_a_script_for_slurm_is_only_written(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    slurm = executor_settings(
        "slurm", workers=3, slurm="partition=gpu,time=1:00:00,exclusive=", script=True
    )
    assert slurm is not None
    spreading.run_spread(settings_of(study, out), None, slurm)
    (script,) = out.glob("jobs/*/job.sh")
    text = script.read_text()
    assert "#SBATCH --array=1-3\n" in text
    assert "#SBATCH --partition=gpu\n" in text
    assert "#SBATCH --exclusive\n" in text
    assert len(list(script.parent.glob("unit-*.json"))) == 3
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    assert not (out / "results.jsonl").exists()


def test_what_sbatch_reads_is_quoted(tmp_path: Path) -> None:
    place = tmp_path / "My Study"
    place.mkdir()
    settings = ExecutorSettings("slurm", slurm={"exclusive": True, "partition": "gpu"})
    text = write_script(place, [place / "unit-0001.json"], settings).read_text()
    assert "#SBATCH --exclusive\n" in text
    assert "#SBATCH --partition=gpu\n" in text
    assert f'#SBATCH --output="{place}/slurm-%a.out"\n' in text


def test_no_path_ends_the_head_of_a_script_early(tmp_path: Path) -> None:
    place = tmp_path / "100%j"
    place.mkdir()
    settings, unit = ExecutorSettings("slurm"), place / "unit-0001.json"
    text = write_script(place, [unit], settings).read_text()
    assert f"#SBATCH --output={tmp_path}/100%%j/slurm-%a.out\n" in text
    for name in ("a\nb", 'a"b'):
        with pytest.raises(UserError, match="--out: sbatch cannot read"):
            write_script(tmp_path / name, [unit], settings)


def test_a_hidden_card_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert cards(None) == []
    with pytest.raises(UserError, match="no card"):
        cards("all")


def test_cells_of_a_worker_that_died_are_counted(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker was killed after 18 of 48 cells: those that saw the end know what it did."""
    ends = [
        {"done": 12, "skipped": 18, "elsewhere": 18, "failed": 0, "failed_meanwhile": 0,
         "first_error": "", "kept": False},
        {"done": 17, "skipped": 0, "elsewhere": 30, "failed": 1, "failed_meanwhile": 0,
         "first_error": "no", "kept": True},
    ]  # fmt: skip
    monkeypatch.setattr(spreading, "spread", lambda *given: ends)
    summary = spreading.run_spread(settings_of(study, tmp_path / "out"), None, TWO)
    assert (summary.done, summary.skipped, summary.failed) == (29, 0, 1)
    assert summary.elsewhere == 18


@pytest.mark.parametrize(
    ("states", "script", "left"),
    [
        (["running", "running"], False, False),  # of this machine: they end with their starter
        (["done", "stopped"], True, False),
        (["done", "running"], True, True),
        (["done"], True, True),  # the other one waits in the queue
    ],
)
def test_units_of_a_killed_starter_go(
    states: list[str], script: bool, left: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "jobs" / "run-1"
    for i in range(2):
        unit = folder / f"unit-{i + 1:04d}.json"
        Unit("run", {}).write(unit)
        if states[i:]:
            write_status(unit, Status(states[i]))
    if script:
        (folder / "job.sh").touch()
    killed = (
        "import os, sys; from pathlib import Path; from spade_bench.leases import Leases;"
        "Leases(Path(sys.argv[1])).take('starter'); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", killed, str(folder)], check=False)
    remove_left(tmp_path / "jobs")
    assert folder.exists() == left


def test_units_that_are_followed_or_kept_stay(tmp_path: Path) -> None:
    followed, kept = (tmp_path / "jobs" / name for name in ("run-1", "run-2"))
    for folder in (followed, kept):
        Unit("run", {}).write(folder / "unit-0001.json")
    with Leases(followed).take("starter") or pytest.fail("free work is taken"):
        remove_left(tmp_path / "jobs")
    assert followed.exists()
    assert kept.exists()
