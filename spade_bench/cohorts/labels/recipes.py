"""How the labels of a task are made from downloaded columns: data in `configs/cohorts/*.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from spade_bench import config
from spade_bench.errors import ConfigError
from spade_bench.registry import suggest

__all__ = ["Field", "Recipe", "Rule", "load_recipe", "recipe_names"]


@dataclass(frozen=True)
class Field:
    """One downloaded column and what its values mean.

    Attributes:
        columns: Names under which files hold it; case, blanks and underscores do not matter.
        labels: Value -> class.
        at_least: Instead of labels: a number from which on the second class holds.
        gene: Instead of labels: the column holds calls of this gene.
        ignore: Values that decide nothing, such as `Equivocal`; the next field may decide.
        others: Values of any other kind are refused by name, or dropped and counted.
    """

    columns: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    at_least: float | None = None
    gene: str = ""
    ignore: tuple[str, ...] = ()
    others: Literal["refuse", "drop"] = "refuse"


@dataclass(frozen=True)
class Rule:
    """How fields become a label.

    Attributes:
        fields: Names of the fields, in order.
        resolve: `first` takes the first field that decides; `agree` wants all to say the same.
        says: One sentence for people.
    """

    fields: tuple[str, ...]
    resolve: Literal["first", "agree"] = "first"
    says: str = ""


@dataclass(frozen=True)
class Recipe:
    """How a task's table is made.

    Attributes:
        name: Name of the task.
        types: Cancer types of TCGA that belong to it.
        source: Which downloads hold the columns.
        classes: Classes of the table; empty for survival.
        fields: Columns by name.
        rules: Ways to resolve them by name; the first is the default.
        endpoint: For survival, the default endpoint: OS, DSS, DFI or PFI.
    """

    name: str
    types: tuple[str, ...]
    source: str
    classes: tuple[str, ...] = ()
    fields: Mapping[str, Field] = field(default_factory=dict)
    rules: Mapping[str, Rule] = field(default_factory=dict)
    endpoint: str = ""

    def rule(self, name: str | None) -> tuple[str, Rule]:
        """The rule of this name, or the default one.

        Raises:
            ConfigError: When there is no such rule.
        """
        chosen = name or next(iter(self.rules))
        if chosen not in self.rules:
            raise ConfigError(
                f"{self.name} has no rule '{chosen}'",
                where="--rule",
                fix=f"Choose from: {', '.join(self.rules)}",
            )
        return chosen, self.rules[chosen]


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    return config.names_of("cohorts")


def load_recipe(name: str) -> Recipe:
    """Read a recipe by its task's name, or from a YAML file.

    Raises:
        ConfigError: When there is none, or it contradicts itself.
    """
    if not name.endswith((".yaml", ".yml")) and name not in recipe_names():
        near = suggest(name, recipe_names())
        raise ConfigError(
            f"no recipe makes the table of '{name}'",
            where="--task",
            fix=f"Did you mean {near}?" if near else f"Known: {', '.join(recipe_names())}",
        )
    recipe = config.build(Recipe, config.named_config("cohorts", name), name)
    if bool(recipe.endpoint) == bool(recipe.rules):
        raise ConfigError("needs either an endpoint or rules", where=name)
    for rule_name, rule in recipe.rules.items():
        unknown = [one for one in rule.fields if one not in recipe.fields]
        if unknown or not rule.fields:
            raise ConfigError(f"rule '{rule_name}' names unknown fields {unknown}", where=name)
    if recipe.rules and len(recipe.classes) < 2:
        raise ConfigError("needs two classes or more", where=name)
    return recipe
