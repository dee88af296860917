"""`spade-bench explain`: what each patch did to a prediction, as maps of slides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spade_bench.cli.options import (
    DeviceOption,
    JsonOption,
    RegionNameOption,
    parse_named_paths,
    paths_by_name,
)

if TYPE_CHECKING:
    from spade_bench.explain.experts.expertfiles import ExpertFiles
    from spade_bench.explain.mapfolder import Written
    from spade_bench.explain.regionscores import RegionScores

__all__ = ["explain"]


def explain(
    subject: Annotated[
        list[Path],
        typer.Argument(
            help="Folder of a model of `fit`, or folders of results of `run`; or the weights of an "
            "encoder with experts, for their maps."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for maps and pictures.")],
    slides: Annotated[
        Path | None, typer.Option(help="Folder of slides to draw on; only their cases are mapped.")
    ] = None,
    patches: Annotated[
        Path | None,
        typer.Option(
            help="Instead of slides, the folder of patch images that `extract --patches` was "
            "given; they are shown on the contact sheets."
        ),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(help="Features folder, or ENCODER=DIR. Default: that of the run."),
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(help="Case or slide to map. Repeatable. Default: all that were held out."),
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder of the run, if several.")] = None,
    task: Annotated[str | None, typer.Option(help="Task of the run, if several.")] = None,
    head: Annotated[str | None, typer.Option(help="Head of the run, if several.")] = None,
    shots: Annotated[
        int | None, typer.Option(help="Shots of the run, if several. Default: the largest.")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="Protocol of the run, if several.")] = None,
    against: Annotated[
        str | None, typer.Option(help="A second encoder of the run, or its base, beside the first.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Table (csv) of the cases. Default: that of the run.")
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(help="Weights of an encoder of features, or ENCODER=PATH."),
    ] = None,
    top: Annotated[
        int, typer.Option(min=0, help="Patches of each end on the contact sheets; 0 for none.")
    ] = 50,
    pictures: Annotated[
        bool,
        typer.Option(
            "--pictures/--no-pictures",
            help="Draw every map. Without, the numbers of a whole cohort take seconds.",
        ),
    ] = True,
    blind: Annotated[
        bool,
        typer.Option("--blind", help="Contact sheets A, B, ... without names, and a key apart."),
    ] = False,
    regions: Annotated[
        Path | None,
        typer.Option(help="Outlines (SLIDE.geojson, or a folder) to draw and to measure against."),
    ] = None,
    region_name: RegionNameOption = None,
    inside: Annotated[
        Path | None,
        typer.Option(
            help="Regions inside which the models were fitted. Default: those of the run."
        ),
    ] = None,
    geojson: Annotated[bool, typer.Option("--geojson", help="Write files for QuPath too.")] = False,
    viewer: Annotated[
        bool,
        typer.Option(
            "--viewer",
            help="Write a viewer of slides and layers too, which opens in a browser by double "
            "click.",
        ),
    ] = False,
    viewer_px: Annotated[
        int,
        typer.Option(
            help="Longer side of the viewer's largest picture of a slide: 8192 gives at most 341 "
            "tiles, mostly 2 to 15 MB per slide."
        ),
    ] = 8192,
    gzip: Annotated[
        bool, typer.Option("--gzip", help="With --geojson: compress the files (.geojson.gz).")
    ] = False,
    max_detections: Annotated[
        int,
        typer.Option(min=1, help="With --geojson: most patches per file, those that show most."),
    ] = 50_000,
    trained_too: Annotated[
        bool,
        typer.Option("--trained-too", help="Map cases that trained the model too, and mark them."),
    ] = False,
    genes: Annotated[
        str | None, typer.Option(help="Of weights: genes to predict on slides, GENE,GENE,...")
    ] = None,
    training_spots: Annotated[
        Path | None,
        typer.Option(help="Of weights: their training spots, pretraining's folder or its HEST."),
    ] = None,
    json_: JsonOption = False,
    device: DeviceOption = None,
) -> None:
    """Map what each patch of a slide did to a prediction: attention and signed contributions.

    Of a run, the map of a case is the mean over the kept heads in which it was held out. Of the
    weights of an encoder with experts, it maps which expert each patch goes to, and with --genes
    the expression that is predicted there.
    """
    from spade_bench import console
    from spade_bench import workspace as ws
    from spade_bench.explain.experts.fromweights import (
        encoder_of,
        explain_experts,
        refuse_with_weights,
        refuse_without_weights,
    )
    from spade_bench.explain.explaining import Question, maps_of, open_subject
    from spade_bench.explain.keptmodels import Wanted
    from spade_bench.explain.mapfolder import SCHEMA, MapFolder, Wishes
    from spade_bench.surroundings import left_unchanged

    space = ws.load()
    device = device or (space.device if space is not None else "auto")
    wishes = Wishes(
        geojson=geojson, top=top, blind=blind, regions=regions,
        region_names=tuple(region_name or ()), pictures=pictures, viewer=viewer,
        viewer_px=viewer_px, gzip=gzip, max_detections=max_detections,
    )  # fmt: skip
    plugin = encoder_of(subject[0]) if len(subject) == 1 else None
    if plugin is not None:
        refuse_with_weights(
            {
                "--encoder": encoder, "--task": task, "--head": head, "--shots": shots,
                "--protocol": protocol, "--against": against, "--weights": weights,
                "--blind": blind, "--regions": regions, "--region-name": region_name,
                "--inside": inside, "--trained-too": trained_too, "--patches": patches,
            }
        )  # fmt: skip
        place = _paths(features, "--features", False)
        with left_unchanged():
            made = explain_experts(
                plugin, subject[0], features=place, slides=slides, out=out, wanted=case,
                table=table, genes=genes, spots=training_spots, wishes=wishes, device=device,
            )  # fmt: skip
        _say_experts(made, out, json_)
        return
    refuse_without_weights(genes, training_spots)
    wishes.check(slides=slides is not None, patches=patches is not None)
    opened = open_subject(subject, device)
    of_run = isinstance(opened, list)
    question = Question(
        wanted=Wanted(encoder, task, head, shots, protocol),
        against=against,
        cases=case or None,
        features=_paths(features, "--features", of_run),
        slides=slides,
        patches=patches,
        table=table,
        weights=_paths(weights, "--weights", of_run),
        device=device,
        trained_too=trained_too,
        inside=inside,
        workspace=space,
    )
    with left_unchanged():
        folder = MapFolder(out, wishes)
        written = folder.take(maps_of(opened, question, expect=folder.expect))
    if json_:
        content = {"out": str(out), "maps": written.maps, "mean_spearman": written.agreement}
        console.emit_json(SCHEMA.split("/")[1], content)
        return
    _say(written, out)


def _paths(values: list[str] | None, option: str, of_run: bool) -> Any:
    """Paths by encoder, `*` for every one; of a model the one path. None where none is given."""
    from spade_bench.errors import UserError

    if of_run:
        return paths_by_name(values, option) or None
    named, every = parse_named_paths(values, option)
    if named:
        raise UserError("a model has one encoder", where=option, fix=f"Write {option} PATH")
    return every


def _say_experts(made: ExpertFiles, out: Path, as_json: bool) -> None:
    from spade_bench import console

    if as_json:
        listed = [path.relative_to(out).as_posix() for path in made.files]
        console.emit_json("expert-maps", {"slides": list(made.layers), "files": listed})
        return
    slides = "1 slide" if len(made.layers) == 1 else f"{len(made.layers)} slides"
    console.emit(f"experts of {slides}, {len(made.files)} files: {out}")
    if made.viewer is not None:
        console.emit(f"open {made.viewer} in a browser")


def _say(written: Written, out: Path) -> None:
    from spade_bench import console

    cases = {one["case_id"] for one in written.maps}
    first = written.maps[0]
    models = sorted({one["models"] for one in written.maps})
    number = f"{models[0]}" if len(models) == 1 else f"{models[0]} to {models[-1]}"
    encoders = " and ".join(written.encoders)
    maps = "1 map" if len(written.maps) == 1 else f"{len(written.maps)} maps"
    of = "1 case" if len(cases) == 1 else f"{len(cases)} cases"
    console.emit(
        f"{maps} of {of}, {encoders} with {first['head']} on "
        f"{first['task']}, {number} model(s) each ({first['method']}): {out}"
    )
    trained = sum(one["trained"] for one in written.maps)
    if trained:
        are = "1 map is of a case" if trained == 1 else f"{trained} maps are of cases"
        console.emit(f"{are} that trained the models, and marked")
    if written.agreements:
        a, b = written.agreements[0].a, written.agreements[0].b
        mean = "undefined" if written.agreement is None else f"{written.agreement:.3f}"
        console.emit(
            f"{a} and {b} agree with a rank correlation of {mean}, "
            f"mean over {len(written.agreements)} slides"
        )
    if written.regions is not None:
        _say_regions(written.regions, written.encoders)
    if written.viewer is not None:
        console.emit(f"open {written.viewer} in a browser")


def _say_regions(scores: RegionScores, encoders: tuple[str, ...]) -> None:
    from spade_bench import console
    from spade_bench.errors import name_some

    def between(low: float | None, high: float | None) -> str:
        return "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"

    inside = [one.area_share for one in scores.slides]
    labels = dict.fromkeys(name for one in scores.slides for name in one.region.split(", ") if name)
    named = f" ({name_some(labels, 8)})" if labels else ""
    console.emit(f"the regions{named} hold {sum(inside) / len(inside):.3f} of the patches")
    towards = scores.slides[0].towards
    words = {
        "attention_share": "share of the attention inside",
        "auroc": "AUROC of what is shown for the regions",
        "contribution_auroc": f"AUROC of the contribution towards {towards}",
    }
    for one in scores.means():
        if one.metric in words:
            console.emit(
                f"{one.encoder}: {words[one.metric]} {one.mean:.3f}{between(one.low, one.high)}, "
                f"{one.slides} slides of {one.cases} cases"
            )
    if len(encoders) > 1:
        for difference in scores.differences(encoders[0], encoders[1]):
            if difference.metric in ("auroc", "contribution_auroc"):
                console.emit(
                    f"{difference.a} minus {difference.b}: {words[difference.metric]} "
                    f"{difference.mean:+.3f}"
                    f"{between(difference.low, difference.high)}"
                )
