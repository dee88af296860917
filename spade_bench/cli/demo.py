"""`spade-bench demo`: the whole main job on simulated data, from nothing to a leaderboard."""

from __future__ import annotations

import contextlib
import functools
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
    "training.init=none",
    "routing.tau=0.1",
    "split.validation=samples",
    "split.test_fraction=0",
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
    # arrives within the few hundred steps that so few spots allow. Without these lines, rules that
    # look at the size of the cohort choose (docs/PRETRAIN.md).
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
_SECTIONS = "held_out.csv"
_PLANTED = "secretory"  # the programme that decides sim_subtype


def demo(
    out: Annotated[
        Path,
        typer.Option(help="Folder for everything. The same command continues what it began there."),
    ] = Path("spade-bench-demo"),
    seed: SeedOption = 0,
    size: SizeOption = "tiny",
) -> None:
    """Simulate, extract, pretrain SPADE, run, explain and report, all on simulated data."""
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
        _expression(start)
        _explain(start)
        _step(start, "spade-bench report runs --html report.html --maps maps")
        report([Path("runs")], html=Path("report.html"), maps=Path("maps"))
    seconds = time.monotonic() - start
    console.emit(f"All numbers above are SIMULATED. Done in {seconds:.0f} s. Files in {out}:")
    for name, what in (
        ("spade-bench.yaml", "the workspace; `spade-bench run` works from this folder"),
        ("data", "simulated sections, slides, cohort tables and truth.json"),
        ("features", "features of the slides by both encoders"),
        ("spade", "the pretrained SPADE, its validation.json and its one-expert control"),
        (_SECTIONS, "sections that did not train it, in which genes are predicted"),
        ("runs", "results.jsonl, predictions, kept heads and plots"),
        ("report.html", "the report as a page: open it in a browser"),
        (
            "maps",
            "attention of SPADE and its base on two slides, and how far two models "
            "disagree; open maps/viewer/index.html",
        ),
        ("planted", "region_scores.csv: how well the maps find what was planted"),
    ):
        console.emit(f"  {out / name}: {what}")


def _expression(start: float) -> None:
    """Predict genes in the sections that pretraining held out, by regression and by retrieval."""
    from spade_bench import console
    from spade_bench.cli.run import run

    patients = _held_out(Path("spade/samples.csv"), Path("data/hest/st"), Path(_SECTIONS))
    if len(patients) < 2:
        console.say("no expression is predicted: pretraining held out fewer than two sections")
        return
    # A small study may hold out one patient alone.
    protocol = "leave-one-patient-out" if len(set(patients)) > 1 else "leave-one-section-out"
    what = f"--encoder spade --task hest:{_SECTIONS} --protocol {protocol}"
    _step(start, f"spade-bench run {what}")
    run(
        encoder=["spade"],
        task=[f"hest:{_SECTIONS}"],
        features=["spade/prepare/features"],
        head=["ridge", "retrieval"],
        protocol=protocol,
    )


def _held_out(samples: Path, st: Path, manifest: Path) -> list[str]:
    """Write a manifest of the sections that did not train the model; return their patients."""
    from spade_bench import files
    from spade_bench.cohorts.tabletext import read_dicts

    _, rows = read_dicts(samples)
    held = [row for row in rows if row["status"] == "kept" and row["split"] != "train"]
    lines = ["sample_id,h5ad,organ,patient,simulated"]
    lines += [
        f"{row['sample']},{st / str(row['sample'])}.h5ad,{row['organ']},{row['patient']},1"
        for row in held
    ]
    files.write_text(manifest, "\n".join([*lines, ""]))
    return [str(row["patient"]) for row in held]


def _explain(start: float) -> None:
    """Map held-out slides, and hold the maps of all cases against the planted regions."""
    from spade_bench.cli.explain import explain
    from spade_bench.cli.run import run

    # Every case is held out once per repeat: the maps show how far two models disagree.
    what = "--task sim_subtype --head abmil --protocol cv --repeats 2"
    _step(start, f"spade-bench run --encoder spade {what}")
    run(
        encoder=["spade", _ENCODERS[0]],
        task=["sim_subtype"],
        head=["abmil"],
        protocol="cv",
        folds=3,
        repeats=2,
        controls=False,
    )
    maps = functools.partial(
        explain,
        [Path("runs")],
        encoder="spade",
        against=_ENCODERS[0],
        task="sim_subtype",
        head="abmil",
        regions=Path("data/regions"),
        region_name=[_PLANTED],
    )
    _step(start, f"spade-bench explain runs --region-name {_PLANTED}, all held-out cases")
    maps(out=Path("planted"), pictures=False, top=0)
    _step(start, "spade-bench explain runs --viewer, two cases")
    maps(
        out=Path("maps"),
        slides=Path("data/slides"),
        case=_cases_to_map(),
        viewer=True,
        geojson=True,
        top=20,
    )


def _cases_to_map() -> list[str]:
    """The first case with the planted regions, and the one of them that is predicted worst."""
    from spade_bench.cohorts.tables import read_table
    from spade_bench.regions.regionfiles import find_regions, read_regions
    from spade_bench.report.loadedresults import Results
    from spade_bench.report.page.hardcases import hard_cases

    files = find_regions(Path("data/regions"))
    table = read_table(Path("data/tables/sim_subtype.csv"))
    outlined = [
        case_id
        for case_id, slide_id in zip(table["case_id"], table["slide_id"], strict=True)
        if slide_id in files and _PLANTED in read_regions(files[slide_id], slide_id=slide_id).labels
    ]
    results = Results([Path("runs")])
    listed = [
        case.case_id
        for cases in hard_cases(results.series, results.resampler)
        if cases.task == "sim_subtype"
        for case in cases.cases
    ]
    worst = [case for case in listed if case in outlined]
    return list(dict.fromkeys([*outlined[:1], *worst[:1], *outlined[1:2]]))[:2]


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
