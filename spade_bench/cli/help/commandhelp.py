"""Commands whose `--help` groups the options and ends in examples."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand

from spade_bench.cli.help.helptexts import TEXTS

__all__ = ["GroupedCommand", "examples_of"]

_VALUES = {"str": "TEXT", "path": "PATH", "Path": "PATH", "int": "N", "float": "X"}
_OF_ALL = "Every command also takes --plugin FILE, --debug and --quiet.\n"
_WIDTH = 76  # of an example; the help is folded at 80


class GroupedCommand(TyperCommand):
    """A command that shows its options by what they are for, and then what people type."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then the groups of `TEXTS`, then what stands in none of them."""
        groups = TEXTS[self.name].groups if self.name in TEXTS else {}
        title = {flag: name for name, flags in groups.items() for flag in flags}
        place = {flag: at for flags in groups.values() for at, flag in enumerate(flags)}
        rest = "Help" if groups else "Options"
        sections: dict[str, list[tuple[int, tuple[str, str]]]] = {"Arguments": []}
        sections |= {name: [] for name in (*groups, rest)}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            argument = parameter.param_type_name == "argument"
            flag = parameter.opts[0]
            under = "Arguments" if argument else title.get(flag, rest)
            sections[under].append((place.get(flag, 0), (_plain(record[0]), record[1])))
        for name, records in sections.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl([record for _, record in sorted(records, key=_first)])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write what goes with every command, then examples on lines that can be copied."""
        formatter.write(f"\n{_OF_ALL}")
        text = TEXTS.get(self.name or "")
        if text is not None:
            formatter.write("\nExamples:\n")
            formatter.write("".join(f"  {line}\n" for line in examples_of(text.examples)))


def _plain(usage: str) -> str:
    """Name the value of an option by a word; recent versions of Typer write `<list[str]>`."""
    return re.sub(r"<(?:list\[)?(\w+)(?: range)?\]?>", lambda m: _VALUES.get(m[1], m[0]), usage)


def _first(pair: tuple[int, tuple[str, str]]) -> int:
    return pair[0]


def examples_of(examples: tuple[str, ...]) -> list[str]:
    """Return the lines of examples; a long command goes on behind a backslash."""
    lines: list[str] = []
    for example in examples:
        line = ""
        for word in _with_values(example.split()):
            if line.strip() and len(line) + 1 + len(word) > _WIDTH - 2:
                lines.append(line + " \\")
                line = "    " + word
            else:
                line = f"{line} {word}" if line else word
        lines.append(line)
    return lines


def _with_values(words: list[str]) -> list[str]:
    """Join each option with its value, which are not torn apart."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1].startswith("--") and " " not in joined[-1] and word[0] != "-":
            joined[-1] += f" {word}"
        else:
            joined.append(word)
    return joined
