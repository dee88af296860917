"""Where plugins come from: built-in packages, entry points and loose files.

A plugin that fails to import is recorded by name with its error and does not take the others
down. `spade-bench list` shows it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, TextIO

from spade_bench import config
from spade_bench.errors import PluginError, SpadeBenchError
from spade_bench.registry import Registry, encoders, expression_heads, heads, kinds, tasks
from spade_bench.types import TaskCard

__all__ = ["contained", "install", "load_file", "loaded_files", "place_of"]

_PACKAGES = {
    "encoder": "spade_bench.encoders",
    "head": "spade_bench.heads",
    "head of expression": "spade_bench.heads.spots",
    "kind of task": "spade_bench.tasks",
}
_loaded: list[str] = []
_GROUPS = {
    "encoder": "spade_bench.encoders",
    "head": "spade_bench.heads",
    "head of expression": "spade_bench.expression_heads",
    "task": "spade_bench.tasks",
}


@cache
def install() -> None:
    """Tell each registry how to find its plugins when it is first read; once in a process."""
    for registry in (encoders, heads, expression_heads, kinds):
        registry.on_first_use(_discover)
    tasks.on_first_use(_discover_tasks)


def loaded_files() -> list[str]:
    """Return the files of plugins that this process has loaded, in order."""
    return list(_loaded)


def place_of(error: BaseException) -> str:
    """Return the file and line of a loose plugin whose own code raised an error, or nothing.

    Where this package's code raised it, called by a plugin or not, the place is not the plugin's.
    """
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        file = Path(frame.f_code.co_filename).resolve()
        if str(file) in _loaded:
            return f"{file.name}, line {line}"
        # Not by its file: in the repository, those of encoders and tasks lie beside the package.
        if str(frame.f_globals.get("__name__")).partition(".")[0] == __package__:
            return ""
    return ""


def load_file(path: str | Path) -> None:
    """Load a loose plugin: a Python file that registers things, or a YAML task card.

    Raises:
        PluginError: When the file is missing, fails to import or registers nothing.
    """
    file = Path(path)
    if not file.is_file():
        raise PluginError("no such plugin file", where=str(file))
    registries: list[Registry[Any]] = [encoders, heads, expression_heads, kinds, tasks]
    for registry in registries:  # built-ins first, so that a collision names the newcomer
        registry.names()
    if file.suffix in {".yaml", ".yml"}:
        tasks.from_origin(str(file), lambda: _add_task_yaml(str(file)))
        _loaded.append(str(file.resolve()))
        return
    before = [len(registry.names()) for registry in registries]
    load: Callable[[], None] = lambda: _import_file(file)  # noqa: E731
    for registry in registries:
        load = _nest(registry, str(file), load)
    try:
        with contained("plugin", str(file)):
            load()
    except SpadeBenchError:
        raise
    except Exception as error:
        raise PluginError(
            f"plugin fails to import ({type(error).__name__}: {error})", where=str(file)
        ) from error
    if before == [len(registry.names()) for registry in registries]:
        raise PluginError(
            "plugin registers nothing",
            where=str(file),
            fix="Use @encoders.register(card), @heads.register(card) or @kinds.register(card)",
        )
    _loaded.append(str(file.resolve()))


def _nest(registry: Registry[Any], origin: str, inner: Callable[[], None]) -> Callable[[], None]:
    return lambda: registry.from_origin(origin, inner)


def _import_file(file: Path) -> None:
    name = f"spade_bench_plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PluginError("not a Python file", where=str(file))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _discover(registry: Registry[Any]) -> None:
    package = importlib.import_module(_PACKAGES[registry.kind])
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            name = f"{package.__name__}.{module.name}"
            _guard(registry, name, "built-in", partial(importlib.import_module, name))
    if registry.kind in _GROUPS:
        _discover_entry_points(registry, _GROUPS[registry.kind])


def _discover_tasks(registry: Registry[TaskCard]) -> None:
    for name in config.names_of("tasks"):
        _guard(registry, name, "built-in", partial(_add_task_yaml, name))
    _discover_entry_points(registry, _GROUPS["task"])


def _discover_entry_points(registry: Registry[Any], group: str) -> None:
    for point in importlib.metadata.entry_points(group=group):
        _guard(registry, point.name, f"entry point {point.value}", point.load)


def _guard(registry: Registry[Any], name: str, origin: str, load: Callable[[], object]) -> None:
    """Run ``load``; on any failure note it under the plugin's name and go on."""
    try:
        with contained("plugin"):
            registry.from_origin(origin, load)
    except Exception as error:
        registry.broken[name] = f"{origin}: {type(error).__name__}: {error}"


def _add_task_yaml(name_or_path: str) -> None:
    card = config.build(TaskCard, config.named_config("tasks", name_or_path), name_or_path)
    tasks.add(card, lambda: card)


_running = threading.Lock()
_inside: list[TextIO] = []  # what stdout was, once for each plugin that runs now


@contextlib.contextmanager
def contained(subject: str, where: str = "") -> Iterator[None]:
    """Run a plugin's code: what it prints goes to stderr, and it cannot end the program.

    Threads may be inside at once: the first one turns stdout away, the last one turns it back.

    Args:
        subject: Whose code it is, as the start of a sentence; may be empty.
        where: Likewise, as a place.

    Raises:
        PluginError: When the code calls `sys.exit`.
    """
    with _running:
        _inside.append(sys.stdout if not _inside else _inside[0])
        sys.stdout = sys.stderr
    try:
        yield
    except SystemExit as error:
        raise PluginError(
            f"{subject} called sys.exit({error.code})".strip(),
            where=where,
            fix="Have it raise an error or return what it was asked for",
        ) from error
    finally:
        with _running:
            stdout = _inside.pop()
            if not _inside:
                sys.stdout = stdout
