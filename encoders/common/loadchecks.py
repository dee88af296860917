"""What every loader of published weights refuses: unknown options, absent packages, misfits."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from spade_bench.errors import ConfigError, WeightsError
from spade_bench.registry import suggest
from spade_bench.types import LoadOptions

__all__ = ["OPTIONS", "check_options", "fit_or_fail", "need_packages"]

OPTIONS = ("trust_remote_code", "revision")


def check_options(name: str, options: LoadOptions) -> None:
    """Refuse options that no row of the zoo knows.

    Raises:
        ConfigError: Naming the option.
    """
    for key in options.options:
        if key not in OPTIONS:
            near = suggest(key, OPTIONS)
            fix = f"Did you mean {near}?" if near else f"Known: {', '.join(OPTIONS)}"
            raise ConfigError(f"unknown option '{key}' of encoder '{name}'", fix=fix)


def need_packages(name: str, modules: tuple[str, ...], install: str) -> None:
    """Refuse to go on without the packages an encoder needs.

    Raises:
        WeightsError: Naming them and how to install them.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise WeightsError(
            f"needs the package(s) {', '.join(missing)}, which are not installed",
            where=name,
            fix=f"Run: pip install {install or ' '.join(missing)}",
        )


def fit_or_fail(problems: Mapping[str, Any], where: str) -> None:
    """Refuse weights of which transformers says that something did not fit.

    Args:
        problems: The loading information of `from_pretrained`.
        where: Where the weights come from.

    Raises:
        WeightsError: Naming what is missing, unexpected or of another shape.
    """
    words = {
        "missing_keys": "missing",
        "unexpected_keys": "unexpected",
        "mismatched_keys": "of another shape",
    }
    found = []
    for key, word in words.items():
        names = sorted(str(name[0] if isinstance(name, tuple) else name) for name in problems[key])
        if names:
            more = ", ..." if len(names) > 4 else ""
            found.append(f"{len(names)} {word} ({', '.join(names[:4])}{more})")
    if found:
        raise WeightsError(f"weights do not fit: {'; '.join(found)}", where=where)
