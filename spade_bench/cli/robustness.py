"""`spade-bench robustness`: does an encoder see the tissue or the hospital."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from spade_bench.cli.options import (
    AllowMissingOption,
    AsIsOption,
    CaseColumn,
    DeviceOption,
    JsonOption,
    LabelColumn,
    MatchIds,
    SeedOption,
    SetOption,
    SlideColumn,
    TrustOption,
    load_options,
    paths_by_name,
)

if TYPE_CHECKING:
    from spade_bench.extraction import PatchGroup
    from spade_bench.robustness.assessment import Assessed
    from spade_bench.robustness.measuring import Robustness
    from spade_bench.robustness.perturbations import Changed

__all__ = ["robustness"]


class _LoadFlags(NamedTuple):
    """How encoders of images are loaded."""

    device: str | None
    trust: bool
    options: dict[str, Any]
    seed: int


def robustness(
    encoder: Annotated[list[str], typer.Option(help="Encoder, or LABEL=ENCODER. May be repeated.")],
    out: Annotated[Path, typer.Option(help="Folder for robustness.json and the picture.")],
    table: Annotated[
        Path | None,
        typer.Option(help="Cohort table (csv), or the csv of patches of a PathoROB data set."),
    ] = None,
    features: Annotated[
        list[str] | None, typer.Option(help="Features folder, or ENCODER=DIR. Repeatable.")
    ] = None,
    patches: Annotated[
        Path | None,
        typer.Option(
            help="Instead of a table: a folder of patch images, which are encoded as they are and "
            "with another stain and scanner."
        ),
    ] = None,
    group_by: Annotated[
        str, typer.Option(help="With --patches: which make a slide; see `extract --help`.")
    ] = "auto",
    strength: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="With --patches: strength of the changes.")
    ] = 0.2,
    task: Annotated[
        str | None, typer.Option(help="Task whose classes count. Default: the table's labels.")
    ] = None,
    by: Annotated[str, typer.Option(help="Column of the centre: a site, a scanner.")] = "site",
    points: Annotated[
        str, typer.Option(help="slides (the mean patch of each) or patches (sampled).")
    ] = "slides",
    per_slide: Annotated[
        int, typer.Option(min=1, help="With --points patches: most patches of a slide.")
    ] = 30,
    k: Annotated[
        int | None, typer.Option(min=1, help="Number of neighbours. Default: 11, or fewer.")
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(help="Weights file or folder, or LABEL=PATH. Repeatable.")
    ] = None,
    controls: Annotated[
        bool, typer.Option("--controls/--no-controls", help="Measure the controls too.")
    ] = True,
    allow_missing: AllowMissingOption = False,
    as_is: AsIsOption = False,
    case_column: CaseColumn = None,
    slide_column: SlideColumn = None,
    label_column: LabelColumn = None,
    match_ids: MatchIds = None,
    set_: SetOption = None,
    figures: Annotated[
        str, typer.Option(help="Formats of the picture, such as pdf,svg,png.")
    ] = "png",
    seed: SeedOption = 0,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure how far class beats centre in an encoder's features, on your own cohort."""
    from spade_bench import api, console, files
    from spade_bench import workspace as ws
    from spade_bench.config import parse_set
    from spade_bench.errors import UserError
    from spade_bench.extraction import group_patches
    from spade_bench.report.pictures import draw_pictures, figure_formats
    from spade_bench.robustness.robustnessplot import changes_picture

    formats = figure_formats(figures)
    if patches is not None:
        if table is not None or features:
            raise UserError("patches are encoded: --table and --features are not looked at",
                            where="--patches", fix="Leave them out")  # fmt: skip
        how = _LoadFlags(device, trust_remote_code, parse_set(set_ or []), seed)
        named = paths_by_name(weights, "--weights")
        rows = _changes(encoder, group_patches(patches, group_by), named, strength, how)
        content = {"changes": [row.as_dict() for row in rows]}
        files.write_json(out / "changes.json", {"schema": "spade-bench/robustness/1", **content})
        draw_pictures([changes_picture(rows)], out / "plots", formats)
        if as_json:
            console.emit_json("robustness", content)
        else:
            _print_changes(rows)
        console.say(f"wrote {out / 'changes.json'}")
        return
    found = api.robustness(
        encoder,
        task=task,
        table=table,
        features=paths_by_name(features, "--features") or None,
        weights=paths_by_name(weights, "--weights") or None,
        by=by,
        points=points,
        per_slide=per_slide,
        k=k,
        workspace=ws.load(),
        controls=controls,
        allow_missing=allow_missing or None,
        as_is=as_is or None,
        case_column=case_column,
        slide_column=slide_column,
        label_column=label_column,
        match_ids=match_ids,
        set=parse_set(set_ or []),
        seed=seed,
        device=device,
        trust_remote_code=trust_remote_code or None,
    )
    path = found.save(out)
    draw_pictures([found.picture()], out / "plots", formats)
    if as_json:
        console.emit_json("robustness", found.as_dict())
    else:
        _print(found)
    console.say(f"wrote {path}")


def _changes(
    encoder: list[str],
    grouped: tuple[list[PatchGroup], str],
    weights: dict[str, Path],
    strength: float,
    how: _LoadFlags,
) -> list[Changed]:
    """Encode the patches of a folder as they are and changed."""
    from spade_bench import console
    from spade_bench.robustness.perturbations import measure_changes

    groups, rule = grouped
    console.say(f"{sum(len(g.files) for g in groups)} patches of {len(groups)} slides ({rule})")
    requests = {}
    for text in encoder:
        label, _, named = text.partition("=")
        name = named or label
        path = weights.get(label, weights.get(name, weights.get("*")))
        options = {**how.options.get(name, {}), **how.options.get(label, {})}
        if how.trust:
            options["trust_remote_code"] = True
        requests[text] = load_options(name, path, how.device, seed=how.seed, options=options)
    return measure_changes(groups, requests, strength=strength, seed=how.seed)


def _print_changes(rows: list[Changed]) -> None:
    from spade_bench import console

    first = rows[0]
    console.paragraph(
        f"{first.patches} patches as they are and changed by a strength of {first.strength:g} "
        "[95% interval over slides]"
    )
    columns = ("encoder", "change", "cosine to itself", "lower 5%", "finds itself",
               "probe AUROC", "changed", "drop")  # fmt: skip
    cells = [
        (
            row.encoder,
            row.change,
            _with_ends(row.cosine, row.cosine_low, row.cosine_high),
            f"{row.cosine_q05:.3f}",
            f"{row.found:.0%}",
            _number(row.auroc),
            _number(row.auroc_changed),
            "-" if row.drop is None else f"{row.drop:+.3f} [{row.drop_low:+.3f}, "
            f"{row.drop_high:+.3f}]",
        )
        for row in rows
    ]  # fmt: skip
    console.table("", columns, cells, 2)
    if first.auroc is None:
        console.paragraph("no probe: patches do not lie in a folder per class with two slides each")


def _print(found: Robustness) -> None:
    from spade_bench import console
    from spade_bench.report.terminal import print_legend

    first, by = found.rows[0], found.points.by
    mark = "; SIMULATED DATA" if found.simulated else ""
    console.paragraph(
        f"robustness to {by}, {first.points} {found.points.kind} of {len(found.points.labels)} "
        f"classes at {len(found.points.centres)} centres, k = {first.k}: {first.anchors} usable "
        f"anchors; neighbours at random would give {_number(first.chance)} "
        f"[95% interval over cases]{mark}"
    )
    columns = ("encoder", "robustness index", "margin", "lower 5%", "below 0", "clusters",
               "class AUROC", f"{by} AUROC")  # fmt: skip
    console.table("", columns, [_line(row) for row in found.rows], 1)
    if found.gaps:
        console.paragraph("robustness index, a minus b on the same resamples")
        rows = [
            (gap.a, gap.b, f"{gap.mean:+.3f} [{gap.ci_low:+.3f}, {gap.ci_high:+.3f}]",
             _p(gap.p), _p(gap.p_adjusted))
            for gap in found.gaps
        ]  # fmt: skip
        console.table("", ("a", "b", "difference [95% interval]", "p", "p Holm"), rows, 2)
    console.paragraph(
        "margin: similarity to the nearest of the same class elsewhere less that to the nearest of "
        "another class at the same centre, in standard deviations of similarity; clusters: "
        "adjusted Rand index with the class less that with the centre; AUROC of linear probes over "
        "five folds of cases, of the classes, and of the "
        f"{len(first.centre_probe.values)} centres with 10 cases or more"
    )
    _print_drops(found)
    print_legend([flag for row in found.rows for flag in row.flags])


def _print_drops(found: Robustness) -> None:
    """Print what probes lose as class and centre go together in training."""
    from spade_bench import console
    from spade_bench.robustness.performancedrop import DRAWS, LEAST_IN_CELL

    of_rows = [(row, row.performance_drop) for row in found.rows]
    drops = [drop for _, drop in of_rows if drop is not None]
    if not drops:
        console.paragraph(
            f"no performance drop: no two classes have {LEAST_IN_CELL} cases each at two centres"
        )
        return
    first = drops[0]
    away = f"{first.elsewhere_cases} cases elsewhere" if first.elsewhere else "too few elsewhere"
    console.paragraph(
        f"performance drop of a probe of {' and '.join(first.classes)}, trained on "
        f"{first.train_cases} cases of {' and '.join(first.centres)} whose class and "
        f"{found.points.by} go together more and more; {away} [middle 95% of {DRAWS} draws of the "
        "training cases, which says nothing of other cases]"
    )
    columns = ("encoder", "balanced accuracy, V = 0", "V = 1", "drop", "elsewhere, V = 0", "V = 1",
               "drop")  # fmt: skip
    cells = [
        (
            f"{'  ' if row.control else ''}{row.encoder}",
            f"{drop.at_home[0]:.3f}",
            f"{drop.at_home[-1]:.3f}",
            _share(drop.drop_at_home, drop.drop_at_home_range),
            *(
                ("-", "-", "-")
                if drop.elsewhere is None
                else (
                    f"{drop.elsewhere[0]:.3f}",
                    f"{drop.elsewhere[-1]:.3f}",
                    _share(drop.drop_elsewhere, drop.drop_elsewhere_range),
                )
            ),
        )
        for row, drop in of_rows
        if drop is not None
    ]
    console.table("", columns, cells, 1)


def _share(value: float | None, ends: tuple[float, float] | None) -> str:
    if value is None or ends is None:
        return "-"
    return f"{value:+.1%} [{ends[0]:+.1%}, {ends[1]:+.1%}]"


def _line(row: Assessed) -> tuple[str, ...]:
    margins = row.margins
    index = _with_ends(row.robustness_index, row.ci_low, row.ci_high)
    return (
        f"{'  ' if row.control else ''}{row.encoder}",
        index,
        "-" if margins is None else f"{margins.mean:+.3f}",
        "-" if margins is None else f"{margins.q05:+.3f}",
        "-" if margins is None else f"{margins.below_zero:.0%}",
        f"{row.clustering_score:+.3f}",
        *(_with_ends(p.auroc, p.ci_low, p.ci_high) for p in (row.class_probe, row.centre_probe)),
    )


def _with_ends(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.3f} [{_number(low)}, {_number(high)}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"
