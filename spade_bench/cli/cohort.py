"""`spade-bench cohort`: make a task's table from the files that people download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spade_bench.cli.options import JsonOption

if TYPE_CHECKING:
    from spade_bench.cohorts.labels.cohorttable import CohortTable, Count
    from spade_bench.cohorts.labels.labelling import Labelled
    from spade_bench.cohorts.labels.recipes import Recipe

__all__ = ["cohort"]


def cohort(
    task: Annotated[
        str | None,
        typer.Option(
            help="Task to make a table for, or a recipe YAML. Without it, recipes are listed."
        ),
    ] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            help="Downloaded table: TCGA-CDR, PanCanAtlas follow-up, cBioPortal clinical, sample "
            "or mutation table, or case_lists/cases_sequenced.txt. May be repeated; what each "
            "holds is recognised."
        ),
    ] = None,
    slides: Annotated[
        Path | None,
        typer.Option(
            help="Folder of slides or features, a list of names, or a GDC manifest. Without it "
            "only the labels are counted."
        ),
    ] = None,
    case_column: Annotated[
        str | None,
        typer.Option(help="Column of the label tables that holds the TCGA barcode of the case."),
    ] = None,
    slide_column: Annotated[
        str | None, typer.Option(help="Column of the slide, where --slides is a table.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Table to write; its provenance goes beside it.")
    ] = None,
    rule: Annotated[
        str | None, typer.Option(help="How columns become a label, such as fish-first.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="OS, DSS, DFI or PFI instead of the recipe's endpoint.")
    ] = None,
    variant: Annotated[
        str, typer.Option(help="Count only this protein change as mutant, such as V600E.")
    ] = "",
    sample_type: Annotated[
        str, typer.Option(help="TCGA sample type of slides and samples: 01 is primary tumour.")
    ] = "01",
    slide_type: Annotated[
        str, typer.Option(help="Kind of slide: DX is diagnostic; 'any' keeps frozen ones too.")
    ] = "DX",
    keep_redacted: Annotated[
        bool, typer.Option("--keep-redacted", help="Keep cases that TCGA redacted.")
    ] = False,
    keep_zero_times: Annotated[
        bool, typer.Option("--keep-zero-times", help="Keep survival times of zero.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a task's table from downloaded label files; every exclusion is counted."""
    from spade_bench.cohorts.labels.cohorttable import build_table, count_labels, write_table
    from spade_bench.cohorts.labels.labelling import read_sources
    from spade_bench.cohorts.labels.recipes import load_recipe
    from spade_bench.errors import UserError
    from spade_bench.files import write_json

    if task is None:
        _list(as_json)
        return
    recipe = load_recipe(task)
    if not labels:
        raise UserError("no label table given", where="--labels", fix=f"{task}: {recipe.source}")
    if (out is None) != (slides is None):
        raise UserError(
            f"{'--out' if out is None else '--slides'} is missing",
            fix="Give both to write a table, or neither to count labels",
        )
    labelled, definition = _label(
        recipe,
        read_sources(labels, case_column or ""),
        rule=rule,
        endpoint=endpoint,
        sample_type=sample_type,
        variant=variant,
        keep_redacted=keep_redacted,
        keep_zero_times=keep_zero_times,
    )
    counts, table = count_labels(labelled, recipe), None
    if slides is not None and out is not None:
        kind = "" if slide_type == "any" else slide_type
        table = build_table(
            labelled,
            recipe,
            _slides(slides, slide_column or ""),
            sample_type=sample_type,
            slide_type=kind,
        )
        counts += table.counts
        write_table(out, table)
    account = _account(recipe, definition, labelled, counts, labels)
    if out is not None:
        write_json(out.with_suffix(".provenance.json"), account)
    _print(account, counts, labelled, as_json, out, table)


def _label(recipe: Recipe, sources: Any, **options: Any) -> tuple[Labelled, dict[str, str]]:
    """Labels of all cases, and the definition that made them."""
    from spade_bench.cohorts.labels.followup import follow_cases
    from spade_bench.cohorts.labels.labelling import label_cases
    from spade_bench.errors import UserError

    shared = {key: options[key] for key in ("sample_type", "keep_redacted")}
    if recipe.endpoint:
        if options["rule"] or options["variant"]:
            raise UserError("--rule and --variant do not fit a survival task", where=recipe.name)
        endpoint = str(options["endpoint"] or recipe.endpoint)
        keep_zero = bool(options["keep_zero_times"])
        labelled = follow_cases(sources, recipe, endpoint, keep_zero_times=keep_zero, **shared)
        return labelled, {"endpoint": endpoint}
    if options["endpoint"] or options["keep_zero_times"]:
        raise UserError(
            "--endpoint and --keep-zero-times fit survival tasks only", where=recipe.name
        )
    name, rule = recipe.rule(options["rule"])
    if options["variant"] and not any(recipe.fields[field].gene for field in rule.fields):
        raise UserError("--variant fits mutation tasks only", where=recipe.name)
    labelled = label_cases(sources, recipe, rule, variant=options["variant"], **shared)
    definition = {"rule": name, "says": rule.says}
    return labelled, definition | ({"variant": options["variant"]} if options["variant"] else {})


def _slides(path: Path, column: str) -> list[str]:
    from spade_bench.cohorts.labels.barcodes import list_slides

    return list_slides(path, column)


def _account(
    recipe: Recipe,
    definition: dict[str, str],
    labelled: Labelled,
    counts: list[Count],
    labels: list[Path],
) -> dict[str, Any]:
    import dataclasses

    from spade_bench.files import hash_file

    return {
        "schema": "spade-bench/cohort/1",
        "task": recipe.name,
        **definition,
        "sources": [{"file": path.name, "sha256": hash_file(path)} for path in labels],
        "counts": [dataclasses.asdict(count) for count in counts],
        "notes": list(labelled.notes),
    }


def _print(
    account: dict[str, Any],
    counts: list[Count],
    labelled: Labelled,
    as_json: bool,
    out: Path | None,
    table: CohortTable | None,
) -> None:
    from spade_bench import console

    if as_json:
        console.emit_json("cohort", account)
    else:
        how = account.get("says") or f"endpoint {account.get('endpoint')}"
        rows = [
            (count.step, "excluded" if count.excluded else "", count.what, count.n, count.unit)
            for count in counts
        ]
        console.table(f"{account['task']}: {how}", ("step", "", "what", "n", "of"), rows)
        for note in labelled.notes:
            console.emit(note)
    if out is not None and table is not None:
        console.say(f"wrote {out} ({len(table.rows)} slides)")


def _list(as_json: bool) -> None:
    import dataclasses

    from spade_bench import console
    from spade_bench.cohorts.labels.recipes import load_recipe, recipe_names

    recipes = [load_recipe(name) for name in recipe_names()]
    if as_json:
        console.emit_json("recipes", {"rows": [dataclasses.asdict(recipe) for recipe in recipes]})
        return
    console.table(
        "tables that `spade-bench cohort --task NAME --labels FILE ...` makes",
        ("task", "cancer types", "rules (first is default)", "labels from"),
        [
            (
                recipe.name,
                ", ".join(recipe.types),
                ", ".join(recipe.rules) or f"endpoint {recipe.endpoint}",
                recipe.source,
            )
            for recipe in recipes
        ],
    )
