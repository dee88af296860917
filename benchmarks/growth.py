"""How time and memory grow: extract, validate, run, report and prepare at n, 2n, 4n and 8n.

    python benchmarks/growth.py --json                       # every part, within ten minutes
    python benchmarks/growth.py --part report --sizes 1000,100000
    python benchmarks/growth.py --write-results DIR --rows 100000

Sizes are slides for `extract` and `validate`, cases for `run`, rows for `report` and spots for
`prepare`. Every measurement is a process of its own, so that its peak memory is its own. `seconds`
are those of the processors, which others disturb less than the clock; `wall` is the clock.

Every command is also run on next to nothing (`start`: one slide, four cases, 80 rows, 100 spots).
What that takes is mostly the start of Python and of the libraries; it hides growth, so it is
subtracted before `exponent`, the slope of log seconds over log size, is fitted: 1 is linear. In the
fit each size counts by how much of its seconds is left, because the rest is the noise of the start.
`exponent_whole` is fitted to the seconds as they are, `exponent_wall` to the clock less the start.
The bytes are the peak of resident memory, mapped pages and started processes included.

Slides are extracted by an encoder that averages colours, so that reading, tissue, grid and writing
are what is measured; `benchmarks/extract.py` times a network. Samples are prepared by one worker:
that a second one starts from some number of samples on is a step, and no growth.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peakmemory import PeakMemory, exponent
from prepare import prepare_folder, write_cohort

from spade_bench.files import hash_obj
from spade_bench.results import Predictions, ResultStore, Row, write_predictions

SHOTS = (1, 2, 4, 8, 16)
HEADS = ("logistic", "abmil")
DRAWS = 25
CASES = 80
PER_PAIR = len(SHOTS) * len(HEADS) * DRAWS  # rows per encoder and task


def write_results(out: Path, rows: int) -> int:
    """Write a folder as a sweep would: as many encoders as tasks, five shots, two heads.

    Every second encoder sits on the one before it. Of ten tasks one is of survival and one of
    measured values.

    Args:
        out: The folder.
        rows: About how many rows.

    Returns:
        How many rows there are.
    """
    tasks = max(2, round(math.sqrt(rows / PER_PAIR)))
    encoders = max(2, round(rows / PER_PAIR / tasks))
    draws = max(2, round(rows / (tasks * encoders * len(SHOTS) * len(HEADS))))
    store = ResultStore(out)
    for task in range(tasks):
        for encoder in range(encoders):
            for head in HEADS:
                store.append(_stack(out, task, encoder, head, draws))
    return tasks * encoders * draws * len(SHOTS) * len(HEADS)


def _stack(out: Path, task: int, encoder: int, head: str, draws: int) -> list[Row]:
    """Store all shots and draws of an encoder, task and head; return their rows."""
    name, place = f"encoder-{encoder:02d}", (f"encoder-{encoder:02d}", f"task-{task:02d}", head)
    rng = np.random.default_rng([task, encoder, HEADS.index(head)])
    shared = np.random.default_rng(task).normal(size=CASES)
    label = np.arange(CASES) % 2
    cells: dict[str, Predictions] = {}
    about: dict[str, dict[str, Any]] = {}
    for shot in SHOTS:
        for draw in range(draws):
            run_id = hash_obj([*place, shot, draw])
            signal = (0.4 + 0.05 * encoder) * shot**0.3 * (label - 0.5)
            cells[run_id] = _told(task, shared + 0.5 * rng.normal(size=CASES) + signal)
            about[run_id] = {"k_shot": shot, "draw": draw}
    digests = write_predictions(out, *place, cells)
    base = {"base": f"encoder-{encoder - 1:02d}"} if encoder % 2 else {}
    names = {"classification": ("auroc", "balanced_accuracy"), "survival": ("c_index", "ibs")}
    return [
        Row(
            run_id,
            "ok",
            name,
            place[1],
            head,
            "few-shot",
            seed=0,
            metrics=dict.fromkeys(names.get(told.kind, ("pearson", "mae")), 0.5),
            n={"train": 2 * about[run_id]["k_shot"], "test": CASES, "events": None, "pool": 40},
            inputs={
                "cohort": place[1],
                "features": name,
                "head": head,
                "episode": f"{about[run_id]['k_shot']}-{about[run_id]['draw']}",
                **base,
            },
            env={"cohort": "120 cases of table", "head": f"{head} defaults", "device": "cpu"},
            seconds=0.01,
            created_utc="2026-01-01T00:00:00Z",
            predictions_sha256=digests[run_id],
            **about[run_id],
        )
        for run_id, told in cells.items()
    ]


def _told(task: int, logit: np.ndarray) -> Predictions:
    """Predictions of a task of one of three kinds, (CASES,) logits in."""
    ids, rng = tuple(f"case-{i:03d}" for i in range(CASES)), np.random.default_rng([task, 1])
    if task % 10 == 8:
        target = np.stack([np.arange(CASES) % 2, rng.exponential(900, CASES)], axis=1)
        train = rng.exponential(900, 20)
        trained = np.stack([np.arange(20) % 2, train], axis=1)
        more = tuple(f"train-{i:02d}" for i in range(20))
        return Predictions(ids, (), target, logit[:, None], more, trained, logit[:20, None])
    if task % 10 == 9:
        return Predictions(ids, (), rng.normal(size=CASES), logit[:, None])
    p = 1 / (1 + np.exp(-logit))
    return Predictions(ids, ("neg", "pos"), np.arange(CASES) % 2, np.stack([1 - p, p], axis=1))


MEAN_COLOUR = '''
"""An encoder that costs nothing: the mean and the spread of each colour of a patch."""

from spade_bench import EncoderCard
from spade_bench.registry import encoders

CARD = EncoderCard(
    name="mean-colour", input="image", dim=6, patch_px=224, mpp=0.5, licence="Apache-2.0",
    description="Mean and spread of each colour.", pretrained_on=(),
)


class MeanColour:
    card = CARD

    def encode(self, images):
        import torch

        pixels = torch.as_tensor(images)[:, ::4, ::4].float().flatten(1, 2)  # (n, pixels, 3)
        return torch.cat([pixels.mean(dim=1), pixels.std(dim=1)], dim=1)  # (n, 6)


@encoders.register(CARD)
def load(options):
    return MeanColour()
'''


def write_slides(folder: Path, slides: int) -> None:
    """Write simulated slides, of which every fourth is another picture."""
    from spade_bench.simulate.imaging import make_image
    from spade_bench.simulate.scanner import draw_site
    from spade_bench.simulate.studysettings import ORGANS, Nuisance
    from spade_bench.simulate.textures import Textures
    from spade_bench.simulate.tiff import write_pyramid
    from spade_bench.simulate.tissuemap import draw_case, grow_tissue

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    tissue = grow_tissue(ORGANS[0], draw_case(ORGANS[0], rng), 1024.0, rng)
    section = make_image(tissue, draw_site("S1", Nuisance(), rng), Textures(rng), rng)
    for number in range(slides):
        path = folder / f"slide_{number:04d}.tif"
        if number < 4:
            write_pyramid(path, np.roll(section, 517 * number, axis=(0, 1)), 0.5)
        else:
            shutil.copy(folder / f"slide_{number % 4:04d}.tif", path)


def write_study(folder: Path, cases: int) -> None:
    """Write a table of cases of two classes, and a feature file of 64 patches for each."""
    from spade_bench.features.bags import write_features

    rng = np.random.default_rng(0)
    lines = ["case_id,slide_id,label"]
    for i in range(cases):
        name, label = f"case-{i:05d}", i % 2
        values = rng.normal(0.3 * label, 1, size=(64, 64)).astype(np.float32)
        coords = np.arange(128, dtype=np.int64).reshape(64, 2)
        write_features(
            folder / "features" / f"{name}.h5",
            values,
            coords,
            slide_id=name,
            encoder="made-up",
            attrs={"mpp": 0.5},
        )
        lines.append(f"{name},{name},{'ab'[label]}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _extract(folder: Path, size: int) -> tuple[int, Commands]:
    write_slides(folder / "slides", size)
    (folder / "mean_colour.py").write_text(MEAN_COLOUR, encoding="utf-8")
    return size, {
        "extract": ["extract", "--encoder", "mean-colour", "--slides", str(folder / "slides"),
                    "--plugin", str(folder / "mean_colour.py"), "--out", str(folder / "features"),
                    "--device", "cpu"],
    }  # fmt: skip


def _validate(folder: Path, size: int) -> tuple[int, Commands]:
    write_study(folder, size)
    check = ["validate", "--table", str(folder / "table.csv"), "--features",
             str(folder / "features")]  # fmt: skip
    return size, {"validate": check, "validate again": check}


def _run(folder: Path, size: int) -> tuple[int, Commands]:
    write_study(folder, size)
    common = ["run", "--encoder", "made-up", "--task", "classification:label",
              "--table", str(folder / "table.csv"), "--features", str(folder / "features"),
              "--protocol", "cv", "--folds", "2", "--no-controls", "--device", "cpu"]  # fmt: skip
    few = ["--set", "abmil.epochs=2", "--set", "abmil.min_steps=1"]
    return size, {
        "run logistic": [*common, "--head", "logistic", "--out", str(folder / "results-l")],
        "run abmil": [*common, "--head", "abmil", *few, "--out", str(folder / "results-a")],
    }


def _report(folder: Path, size: int) -> tuple[int, Commands]:
    rows = write_results(folder / "results", size)
    return rows, {"report": ["report", str(folder / "results"), "--no-plots"]}


def _prepare(folder: Path, size: int) -> tuple[int, Commands]:
    samples = max(1, size // SPOTS)
    made = argparse.Namespace(spots=size, samples=samples, genes=2000, density=0.12, dim=64)
    write_cohort(folder, made)
    return size, {"prepare": [PREPARE, str(folder)]}


Commands = dict[str, list[str]]
PREPARE = "prepare"  # no command of the package: `pretrain` up to the training
SPOTS = 500  # per sample


@dataclass(frozen=True)
class Part:
    """What is measured.

    Attributes:
        write: Writes what a size needs to a folder; returns the size as it is, and the commands.
        n: The smallest of the four sizes.
        nothing: The size of next to nothing, which tells what the start takes.
    """

    write: Callable[[Path, int], tuple[int, Commands]]
    n: int
    nothing: int


# Of fewer slides or rows what is left is within the noise of the start.
PARTS = {
    "extract": Part(_extract, 8, 1),
    "validate": Part(_validate, 2500, 4),
    "run": Part(_run, 200, 4),
    "report": Part(_report, 8000, 80),
    "prepare": Part(_prepare, 8000, 100),
}


def work(command: list[str]) -> dict[str, float]:
    """Run a command in this process; return seconds, the clock's, and the peak memory."""
    # Beside this file lies one with the name of a package that others import.
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != Path(__file__).parent]
    from spade_bench.cli.main import main as command_line

    began = time.perf_counter()
    with PeakMemory(children=True) as peak:
        if command[0] == PREPARE:
            prepare_folder(Path(command[1]), argparse.Namespace(n_top=200, workers=1))
        else:
            try:
                command_line(command)
            except SystemExit as stopped:
                if stopped.code:
                    raise
    wall, spent = time.perf_counter() - began, os.times()
    cpu = spent.user + spent.system + spent.children_user + spent.children_system
    return {"seconds": cpu, "wall": wall, "bytes": peak.most.resident}


def measured(command: list[str], scratch: Path) -> dict[str, float]:
    """Run a command in a process of its own; return what it took."""
    found = scratch / "took.json"
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps([str(found), *command])],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SPADE_BENCH_CACHE": str(scratch / "cache")},
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return dict(json.loads(found.read_text(encoding="utf-8")))


def at_size(part: Part, size: int) -> tuple[int, dict[str, dict[str, float]]]:
    """Measure the commands of a part at one size: the size as it is, and what each took."""
    with tempfile.TemporaryDirectory(prefix="spade-bench-") as name:
        actual, commands = part.write(Path(name), size)
        return actual, {what: measured(words, Path(name)) for what, words in commands.items()}


def grown(part: Part, sizes: list[int]) -> list[dict[str, Any]]:
    """Measure a part at each size; return a row per command with its exponents."""
    starts = [at_size(part, part.nothing)[1] for _ in range(2)]
    # What disturbs a start only lengthens it, and would be taken for the work of the sizes.
    start = {what: {name: min(one[what][name] for one in starts) for name in took}
             for what, took in starts[0].items()}  # fmt: skip
    turns = [at_size(part, size) for size in sizes]
    actual = [size for size, _ in turns]
    rows = []
    for what, nothing in start.items():
        took = {name: [turn[what][name] for _, turn in turns] for name in nothing}
        net = {name: [max(0.01, value - nothing[name]) for value in took[name]]
               for name in ("seconds", "wall")}  # fmt: skip
        # A few hundredths of a second above the start are the noise of the start.
        share = {name: [rest / value for rest, value in zip(net[name], took[name], strict=True)]
                 for name in net}  # fmt: skip
        rows.append(
            {
                "part": what,
                "sizes": actual,
                "seconds": [round(value, 2) for value in took["seconds"]],
                "wall": [round(value, 2) for value in took["wall"]],
                "bytes": [round(value) for value in took["bytes"]],
                "start": {name: round(value, 2) for name, value in nothing.items()},
                "exponent": exponent(actual, net["seconds"], share["seconds"]),
                "exponent_wall": exponent(actual, net["wall"], share["wall"]),
                "exponent_whole": exponent(actual, took["seconds"]),
                "exponent_bytes": exponent(actual, took["bytes"]),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=sorted(PARTS), help="Only this one.")
    parser.add_argument("--sizes", help="Sizes, such as 1000,100000. Default: n, 2n, 4n, 8n.")
    parser.add_argument("--write-results", type=Path, help="Only write a folder of results.")
    parser.add_argument("--rows", type=int, default=1000, help="Its rows, about.")
    parser.add_argument("--json", action="store_true", help="Print JSON on one line.")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        found, *command = json.loads(options.child)
        Path(found).write_text(json.dumps(work(command)), encoding="utf-8")
        return
    if options.write_results:
        print(json.dumps({"rows": write_results(options.write_results, options.rows)}))
        return
    began, rows = time.perf_counter(), []
    for name in [options.part] if options.part else PARTS:
        sizes = [PARTS[name].n * factor for factor in (1, 2, 4, 8)]
        if options.sizes:
            sizes = [int(size) for size in options.sizes.split(",")]
        rows += grown(PARTS[name], sizes)
    took = {"parts": rows, "minutes": round((time.perf_counter() - began) / 60, 1)}
    print(json.dumps(took, indent=None if options.json else 1))


if __name__ == "__main__":
    main()
