"""`spade-bench demo`: the whole main job on simulated data, from nothing to a leaderboard."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Annotated

import typer

from spade_bench.cli.options import SeedOption, SizeOption

__all__ = ["SETTINGS", "WORKSPACE", "demo"]

SETTINGS = (
    "clustering.k_organ=1",
    "clustering.k_experts=2",
    "training.epochs=60",
    "training.lr=0.001",
)
"""Settings of `pretrain` for a simulated study; the workspace says why."""

WORKSPACE = """\
# Workspace of the demo. Everything it points to is SIMULATED; no number from it says anything
# about real tissue. `spade-bench init` writes a workspace for your own data.
device: auto

# Where `spade-bench run` writes its results.
out: runs

# Simulated spatial transcriptomics in HEST-1k layout.
hest: data/hest

pretrain:
  encoder: efficientnet-lite0
  out: spade
  set:
    # About 2,300 spots: every expert needs some hundreds of its own, and patches that go to
    # different experts land in different spaces, which a slide's mean then mixes. So one expert per
    # organ instead of the paper's 16 experts of 16 clusters per organ, and a learning rate that
    # arrives within the few hundred steps that so few spots allow.
{settings}

encoders:
  spade: {weights: spade}

cohorts:
  # The name of the real cohort, so that the real task card finds it; the slides are simulated.
  tcga_crc:
    slides: data/slides
    tables: {crc_braf: data/tables/crc_braf.csv}
    features: {efficientnet-lite0: features, random-lite0: features}
  simulated:
    slides: data/slides
    tables: {sim_subtype: data/tables/sim_subtype.csv}
    features: {efficientnet-lite0: features, random-lite0: features}

run:
  heads: [logistic]
  shots: [1, 2, 4, 8]
  draws: 20
  seed: 0
""".replace("{settings}", "\n".join(f"    {text.replace('=', ': ')}" for text in SETTINGS))

_ENCODERS = ("efficientnet-lite0", "random-lite0")


def demo(
    out: Annotated[
        Path,
        typer.Option(help="Folder for everything. The same command continues what it began there."),
    ] = Path("spade-bench-demo"),
    seed: SeedOption = 0,
    size: SizeOption = "tiny",
) -> None:
    """Simulate, extract, pretrain SPADE, run the benchmark and report, all on simulated data."""
    from spade_bench import console, files, workspace
    from spade_bench.cli.pretrain import pretrain
    from spade_bench.cli.report import report
    from spade_bench.cli.run import run

    start = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(out):
        _step(start, f"simulate data/ ({size})")
        _simulate(seed, size)
        files.write_text(workspace.FILE_NAME, WORKSPACE)
        for encoder in _ENCODERS:
            _step(start, f"spade-bench extract --encoder {encoder} --slides data/slides")
            _extract(encoder)
        _step(start, "spade-bench pretrain")
        pretrain()
        _step(start, "spade-bench run --encoder spade --task crc_braf")
        run(encoder=["spade"], task=["crc_braf"])
        _step(start, "spade-bench report")
        report()
    seconds = time.monotonic() - start
    console.emit(f"All numbers above are SIMULATED. Done in {seconds:.0f} s. Files in {out}:")
    for name, what in (
        ("spade-bench.yaml", "the workspace; `spade-bench run` works from this folder"),
        ("data", "simulated sections, slides, cohort tables and truth.json"),
        ("features", "features of the slides by both encoders"),
        ("spade", "the pretrained SPADE, its validation.json and its one-expert control"),
        ("runs", "results.jsonl, predictions and plots"),
    ):
        console.emit(f"  {out / name}: {what}")


def _step(start: float, what: str) -> None:
    from spade_bench import console

    console.say(f"[{time.monotonic() - start:.0f} s] {what}")


def _simulate(seed: int, size: str) -> None:
    """Simulate unless the same study is there already."""
    from spade_bench import console
    from spade_bench.files import read_json
    from spade_bench.simulate import simulate, story_hash

    wanted = story_hash(seed, size, 1.0)
    truth = Path("data/truth.json")
    if truth.exists() and read_json(truth).get("story") == wanted:
        console.say("data/ holds this study already")
        return
    simulate(Path("data"), seed, size)


def _extract(encoder: str) -> None:
    from spade_bench.cli.extract import extract
    from spade_bench.errors import DataError

    if extract(encoder=encoder, slides=Path("data/slides"), out=Path("features")):
        raise DataError("some simulated slides could not be read", where="data/slides")
