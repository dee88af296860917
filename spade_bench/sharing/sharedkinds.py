"""The models that can be passed on: a SPADE folder, a model of `fit`, a head that `run` kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spade_bench.cohorts.withholding import Names, Withholding
from spade_bench.encoders.spade import sharedmodel
from spade_bench.errors import DataError, UserError
from spade_bench.evaluation.trainedmodel import DESCRIPTION, HEAD, TrainedModel
from spade_bench.files import hash_file, read_json, read_sealed, write_sealed
from spade_bench.heads import FittedHead
from spade_bench.registry import encoders, heads
from spade_bench.sharing.modelcards import ModelFacts, Validation

__all__ = ["check", "kind_of", "stage"]

_FILES = {"spade": "spade.json", "model": DESCRIPTION, "head": "cell.json"}
_HEAD_FILES = ("head.json", "head.safetensors")
_LISTS = ("train", "tune", "test")


def kind_of(folder: Path) -> str:
    """Return what kind of model a folder holds: `spade`, `model` or `head`.

    Raises:
        UserError: When it holds none.
    """
    if not folder.is_dir():
        raise UserError("no such folder", where=str(folder))
    for kind, name in _FILES.items():
        if (folder / name).is_file():
            return kind
    raise UserError(
        "holds no model that can be passed on",
        where=str(folder),
        fix="Give the folder that `spade-bench pretrain` or `spade-bench fit` wrote, or one of "
        "RUNS/heads/ of `spade-bench run --keep-heads folds`",
    )


def check(folder: Path, kind: str) -> None:
    """Make sure that a folder is a whole model of its kind.

    Raises:
        UserError: When it is not.
    """
    if _FILES.get(kind) is None or kind_of(folder) != kind:
        raise DataError(f"holds no model of kind '{kind}'", where=str(folder))
    if kind == "spade":
        sharedmodel.names_in(folder)
    elif kind == "model":
        TrainedModel.load(folder)
    else:
        FittedHead.check_files(folder)


def stage(
    folder: Path, target: Path, how: Names, results: Path | None
) -> tuple[ModelFacts, Withholding]:
    """Write a copy of a model in which names are what they shall be, and say what it is.

    Args:
        folder: The model.
        target: An empty folder.
        how: What becomes of names.
        results: Results of a run with the same encoder, task and head, for a model of `fit`.

    Raises:
        UserError: When the model is damaged, or holds features of single cases.
    """
    kind = kind_of(folder)
    if results is not None and kind != "model":
        raise UserError(
            f"speaks of a model of `spade-bench fit`, and this is a {kind}", where="--results",
            fix="Leave it out: what validated this model lies beside it",
        )  # fmt: skip
    if kind == "spade":
        return _spade(folder, target, how)
    if kind == "model":
        return _model(folder, target, how, results)
    return _head(folder, target, how)


def _spade(folder: Path, target: Path, how: Names) -> tuple[ModelFacts, Withholding]:
    from spade_bench.encoders.spade.pretraining.validation.validationtables import verdict

    hide = Withholding(sharedmodel.names_in(folder), how)
    before = read_sealed(folder / "spade.json")
    said = sharedmodel.share(folder, target, hide)
    path = folder / "validation.json"
    report = read_json(path) if path.is_file() else None
    base = str(before["base_encoder"])
    technologies = sorted(set(map(str, before["extra"].get("technologies", {}).values())))
    facts = ModelFacts(
        title=f"SPADE over {base or 'unnamed features'}",
        kind="spade",
        does=f"A mixture of {before['K']} experts that maps features of `{base or 'an encoder'}` "
        f"({before['D']} wide) to {before['P']}, each aligned with spatial expression of "
        f"{before['G']} genes by contrast (SPADE, arXiv 2506.21857).",
        use=("spade-bench encode --encoder spade --weights DIR --features BASE --out OUT",),
        encoders=(base,) if base else (),
        trained={
            "samples": str(len(before["samples"])),
            "patients": str(len(before["patients"])) if before["patients"] else "unknown",
            "organs": ", ".join(before["organs"]),
            "technologies": ", ".join(technologies) or "not stored",
            "base encoder": f"{base or 'not stored'} {before['base_revision']}".strip(),
        },
        datasets=None if before["pretrained_on"] is None else tuple(before["pretrained_on"]),
        simulated=bool(before["simulated"]),
        validation=tuple(_retrieval(report)) if report else (),
        validated=hide.text(verdict(report)) if report else "None lies beside the model.",
        limits=("Only patches of the base encoder named above fit, at its magnification.",
                "Predicting genes needs the training spots, which are not passed on."),
        notes=tuple(map(str, said["notes"])),
        versions=dict(before["versions"]),
    )  # fmt: skip
    return facts, hide


def _model(
    folder: Path, target: Path, how: Names, results: Path | None
) -> tuple[ModelFacts, Withholding]:
    model = TrainedModel.load(folder)
    info, content = model.info, read_sealed(folder / DESCRIPTION)
    slides = [slide for listed in info.trained_on.values() for slide in listed]
    hide = Withholding({*info.trained_on, *slides}, how)
    _copy_head(folder / HEAD, target / HEAD, how)
    trained_on = {hide.entry(case): hide.listed(listed)
                  for case, listed in info.trained_on.items()}  # fmt: skip
    about = {**content, "trained_on": trained_on, "head": hash_file(target / HEAD / "head.json")}
    write_sealed(target / DESCRIPTION, about)
    figures = () if results is None else tuple(_measured(results, info, model.fitted.info.head))
    unvalidated = (
        "None. It was fitted on all cases of its table, so nothing was held out; `push --results "
        "RUNS` quotes the run that judged this encoder, task and head."
    )
    facts = ModelFacts(
        title=f"{model.fitted.info.head} for {info.task} over {info.encoder}",
        kind="model",
        does=f"A head `{model.fitted.info.head}` that predicts `{info.task}` ({info.kind}"
        f"{': ' + ', '.join(model.classes) if model.classes else ''}) from features of "
        f"`{info.encoder}`.",
        use=("spade-bench predict DIR --features FEATURES --out predictions.csv",),
        encoders=tuple(dict.fromkeys(n for n in (info.features.encoder, info.encoder) if n)),
        trained={"cases": str(len(info.trained_on)), "slides": str(len(slides)),
                 "resolution": f"{info.features.mpp:g} µm/px" if info.features.mpp else "not said"},
        simulated=info.simulated,
        validation=figures,
        validated="Models of the same encoder, task and head, each judged on cases that it had not "
        "seen. This model was fitted on all cases and is none of them." if figures else unvalidated,
        limits=tuple(f"Flag of its training: `{flag}`." for flag in info.flags),
        versions=dict(info.versions),
    )  # fmt: skip
    return facts, hide


def _head(folder: Path, target: Path, how: Names) -> tuple[ModelFacts, Withholding]:
    from spade_bench.results.store import ResultStore

    FittedHead.check_files(folder)
    cell, head = read_sealed(folder / "cell.json"), read_sealed(folder / "head.json")
    hide = Withholding({name for key in _LISTS for name in cell[key]}, how)
    _copy_head(folder, target, how)
    write_sealed(target / "cell.json", {**cell, **{key: hide.listed(cell[key]) for key in _LISTS}})
    run = folder.resolve().parent.parent
    rows = ResultStore(run).rows() if (run / "results.jsonl").is_file() else []
    row = next((row for row in rows if row.run_id == cell["run_id"]), None)
    base = "" if row is None else str(row.inputs.get("base", ""))
    figures = () if row is None else tuple(
        Validation(f"{name}, held-out cases of this fold or draw", value,
                   n=f"{len(cell['test'])} cases")
        for name, value in row.metrics.items() if isinstance(value, float)
    )  # fmt: skip
    facts = ModelFacts(
        title=f"{head['head']} for {cell['task']} over {cell['encoder']}",
        kind="head",
        does=f"A head `{head['head']}` of one fold or draw of a run: it predicts `{cell['task']}` "
        f"from features of `{cell['encoder']}`.",
        use=("python -c \"from spade_bench.heads import FittedHead; FittedHead.load('DIR')\"",),
        encoders=tuple(name for name in (base, str(cell["encoder"])) if name in encoders),
        trained={"cases": str(len(cell["train"])), "cases for choosing": str(len(cell["tune"])),
                 "cases held out": str(len(cell["test"])), "protocol": str(cell["protocol"]),
                 "fold": str(cell["fold"]), "draw": str(cell["draw"])},
        simulated=row is not None and "simulated" in row.flags,
        validation=figures,
        validated="The row of its run." if figures else "The results of its run are not at hand.",
        limits=("It knows neither weights nor magnification of its features; `spade-bench fit` "
                "makes a model that checks both.",
                *(f"Flag of its run: `{flag}`." for flag in (row.flags if row else ()))),
    )  # fmt: skip
    return facts, hide


def _copy_head(folder: Path, target: Path, how: Names) -> None:
    """Copy a fitted head.

    Raises:
        UserError: When its tensors have a row per training case, which are data of patients.
    """
    described = read_sealed(folder / "head.json")
    name = str(described["head"])
    fitted = FittedHead.load(folder)
    layout = _layout(name, fitted)
    if how != "named" and any(None in shape for shape, _ in layout.values()):
        raise UserError(
            f"The head '{name}' holds the features of each training case, which are data of "
            "patients",
            where=str(folder),
            fix="Fit another head, such as logistic, or give --with-patients if you may pass them "
            "on",
        )
    target.mkdir(parents=True, exist_ok=True)
    for file in _HEAD_FILES:
        shutil.copyfile(folder / file, target / file)


def _layout(name: str, fitted: FittedHead) -> Mapping[str, tuple[tuple[int | None, ...], str]]:
    from spade_bench.heads import HeadOptions, fitting

    able = fitting(heads.get(name).load(HeadOptions("cpu", fitted.info.params)))
    return {} if able is None else able.layout(fitted.info)


def _retrieval(report: Mapping[str, Any]) -> Iterable[Validation]:
    for split, part in report.get("splits", {}).items():
        for way, metrics in part.get("methods", {}).get("spade", {}).items():
            for metric, found in metrics.items():
                yield Validation(f"{metric}, {way.replace('_', ' ')}", found["value"],
                                 found.get("low"), found.get("high"),
                                 f"{part['n_spots']} {split} spots")  # fmt: skip


def _measured(results: Path, info: Any, head: str) -> Iterable[Validation]:
    """Figures of the same encoder, task and head in a run.

    Raises:
        UserError: When the run has none.
    """
    from spade_bench.report.leaderboard import leaderboard
    from spade_bench.report.loadedresults import Results

    loaded = Results([results])
    rows = [
        row for row in leaderboard(loaded.series, loaded.resampler, "all")
        if (row.encoder, row.task, row.head, row.control) == (info.encoder, info.task, head, "")
        and row.mean is not None
    ]  # fmt: skip
    if not rows:
        raise UserError(
            f"no finished result of {info.encoder}, {info.task} and {head}", where=str(results),
            fix="Give the folder of a run with this encoder, task and head",
        )  # fmt: skip
    for row in rows:
        shots = f", {row.k_shot} per class" if row.k_shot is not None else ""
        yield Validation(f"{row.metric}, {row.protocol}{shots}", float(row.mean or 0.0),
                         row.ci_low, row.ci_high,
                         f"{row.n_cases} cases, {row.n_draws} models")  # fmt: skip
