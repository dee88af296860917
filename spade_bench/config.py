"""Frozen, typed configuration built from mappings, with helpful refusals.

Precedence everywhere: defaults < named YAML < ``--config FILE`` < flags and ``--set key=value``.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from spade_bench.errors import ConfigError
from spade_bench.registry import suggest

__all__ = [
    "build",
    "check_ranges",
    "load_yaml",
    "merge",
    "named_config",
    "names_of",
    "nested",
    "parse_memory",
    "parse_set",
    "read_yaml",
    "to_dict",
]

C = TypeVar("C")

_MAX_BYTES = 4 << 20  # of a YAML file: settings, cards and tables of a few thousand lines
_MAX_DEPTH = 40
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_MOST_MEMORY = 2.0**63  # bytes
_MAX_NODES = 200_000  # once aliases are written out


def build(cls: type[C], mapping: Mapping[str, Any], source: str = "configuration") -> C:
    """Build the frozen dataclass ``cls`` from a mapping.

    Args:
        cls: A dataclass; nested dataclasses are built from nested mappings.
        mapping: Values by field name. Missing fields keep their default.
        source: Where the values come from, for error messages.

    Raises:
        ConfigError: On an unknown key (with a suggestion) or a value of the wrong type.
    """
    return typing.cast(C, _build(cls, mapping, source, ""))


def parse_memory(text: int | str) -> int:
    """Turn `4GB`, `512 MB` or a number of bytes into bytes.

    Raises:
        ConfigError: When it is not an amount of memory above zero.
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kmgt]?)i?b?\s*", str(text).lower())
    bytes_ = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 1 <= bytes_ < _MOST_MEMORY:
        raise ConfigError(f"'{text}' is not an amount of memory", fix="Write it like 4GB or 512MB")
    return int(bytes_)


def check_ranges(
    config: Any, ranges: Mapping[str, tuple[float, float]], source: str = "configuration"
) -> None:
    """Refuse settings out of range.

    Args:
        config: A config.
        ranges: Dotted name -> smallest and largest value allowed, both included.
        source: Where the values come from, for messages.

    Raises:
        ConfigError: Naming the first setting that is out of range or not finite, and its range.
    """
    for name, (low, high) in ranges.items():
        value = config
        for part in name.split("."):
            value = getattr(value, part)
        if not isinstance(value, (int, float)):
            continue
        if not math.isfinite(value) or not low <= value <= high:
            allowed = f"{low:g} or more" if math.isinf(high) else f"{low:g} to {high:g}"
            raise ConfigError(f"'{name}' is {value}", where=source, fix=f"Use {allowed}")


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config as nested plain dicts, ready for JSON or YAML."""
    return dataclasses.asdict(config)


def merge(*mappings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Merge nested mappings; later ones win, key by key."""
    out: dict[str, Any] = {}
    for mapping in mappings:
        for key, value in (mapping or {}).items():
            if isinstance(value, Mapping) and isinstance(out.get(key), Mapping):
                out[key] = merge(out[key], value)
            else:
                out[key] = value
    return out


def nested(values: Mapping[str, Any], *, deep: bool = False) -> dict[str, Any]:
    """Nest dotted keys: `{"training.epochs": 3}` -> `{"training": {"epochs": 3}}`.

    Args:
        values: Settings.
        deep: Also keys of the mappings inside.
    """
    out: dict[str, Any] = {}
    for key, value in values.items():
        inner: Any = nested(value, deep=True) if deep and isinstance(value, Mapping) else value
        for part in reversed(str(key).split(".")):
            inner = {part: inner}
        out = merge(out, inner)
    return out


def parse_set(assignments: Iterable[str]) -> dict[str, Any]:
    """Turn ``["a.b=1", "c=[x, y]"]`` into ``{"a": {"b": 1}, "c": ["x", "y"]}``.

    Values are read as YAML, so numbers, lists, booleans and null mean what they look like.

    Raises:
        ConfigError: When an assignment has no ``=`` or its value is not valid YAML.
    """
    import yaml

    out: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"cannot read '{assignment}'",
                where="--set",
                fix="Write key=value, such as --set training.epochs=30",
            )
        try:
            value = load_yaml(text, "--set")
        except yaml.YAMLError as error:
            raise ConfigError(f"value of '{key}' is not valid YAML", where="--set") from error
        out = merge(out, nested({key.strip(): value}))
    return out


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: When it is missing, not YAML or not a mapping; see also :func:`load_yaml`.
    """
    import yaml

    try:
        if (size := Path(path).stat().st_size) > _MAX_BYTES:
            raise ConfigError(f"{size:,} bytes are too many for a settings file", where=str(path))
        content = load_yaml(Path(path).read_text(encoding="utf-8-sig"), str(path))
    except FileNotFoundError as error:
        raise ConfigError("no such file", where=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise ConfigError(f"not valid YAML ({error})", where=str(path)) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError("must hold keys and values at the top", where=str(path))
    return content


def load_yaml(text: str, where: str) -> Any:
    """Read YAML that a stranger may have written.

    Args:
        text: The YAML.
        where: Its file or option, for messages.

    Raises:
        ConfigError: When a mapping gives a key twice, it nests deeper than 40 levels, or its
            aliases would grow beyond 200,000 values.
        yaml.YAMLError: When it is not valid YAML.
    """
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.events.CollectionStartEvent)
        depth -= isinstance(event, yaml.events.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise ConfigError(
                f"nested deeper than {_MAX_DEPTH} levels{_line(event)}",
                where=where,
                fix="Write it flatter",
            )
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is None:
        return None
    _check_node(node, where, {})
    try:
        return yaml.safe_load(text)
    except (ValueError, OverflowError) as error:  # such as 2020-13-45, or thousands of digits
        raise ConfigError(
            f"a value cannot be read ({error})", where=where, fix="Put text in quotes"
        ) from error


def _line(event: Any) -> str:
    return f" (line {event.start_mark.line + 1})" if event.start_mark else ""


def _check_node(node: Any, where: str, sizes: dict[int, int]) -> int:
    """Return how many values a node stands for with its aliases written out.

    Args:
        node: A node of the composed graph.
        where: For messages.
        sizes: Sizes of the nodes seen, by identity; 0 for those still open.
    """
    import yaml

    if id(node) in sizes:
        if sizes[id(node)] == 0:
            raise ConfigError("an alias contains itself", where=where)
        return sizes[id(node)]
    sizes[id(node)] = 0
    total = 1
    if isinstance(node, yaml.MappingNode):
        seen: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                name, line = (key.tag, key.value), key.start_mark.line + 1
                if name in seen:
                    raise ConfigError(
                        f"key '{key.value}' is given twice (lines {seen[name]} and {line})",
                        where=where,
                        fix="Keep one of them",
                    )
                seen[name] = line
            total += _check_node(key, where, sizes) + _check_node(value, where, sizes)
    elif isinstance(node, yaml.SequenceNode):
        total += sum(_check_node(item, where, sizes) for item in node.value)
    if total > _MAX_NODES:
        raise ConfigError(
            f"its aliases stand for more than {_MAX_NODES:,} values",
            where=where,
            fix="Write the values out",
        )
    sizes[id(node)] = total
    return total


def names_of(group: str) -> list[str]:
    """Return the names of the YAML files that ship in ``configs/<group>``."""
    folder = resources.files("spade_bench.configs") / group
    if not folder.is_dir():
        return []
    files = [entry.name for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    return sorted(name.removesuffix(".yaml") for name in files)


def named_config(group: str, name_or_path: str) -> dict[str, Any]:
    """Read what `--config` names: a YAML file, or one of ``configs/<group>`` by its name.

    Raises:
        ConfigError: When neither exists; the message suggests near names.
    """
    is_path = name_or_path.endswith((".yaml", ".yml")) or "/" in name_or_path
    if is_path or Path(name_or_path).is_file():
        return read_yaml(name_or_path)
    known = names_of(group)
    if name_or_path not in known:
        near = suggest(name_or_path, known)
        hint = f"Did you mean {near}?" if near else f"Known: {', '.join(known) or 'none'}"
        raise ConfigError(f"no {group} config named '{name_or_path}'", fix=hint)
    with resources.as_file(
        resources.files("spade_bench.configs") / group / f"{name_or_path}.yaml"
    ) as path:
        return read_yaml(path)


def _build(cls: Any, mapping: Any, source: str, prefix: str) -> Any:
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"'{prefix or 'top level'}' must hold keys and values", where=source)
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    values = {}
    for raw, value in mapping.items():
        key = str(raw)
        if key not in fields:
            near = suggest(key, fields)
            hint = f"Did you mean {near}?" if near else f"Known here: {', '.join(fields)}"
            raise ConfigError(f"unknown key '{prefix}{key}'", where=source, fix=hint)
        values[key] = _convert(hints[key], value, source, f"{prefix}{key}")
    missing = [
        name
        for name, field in fields.items()
        if name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"missing key '{prefix}{missing[0]}'", where=source)
    try:
        return cls(**values)
    except ConfigError as error:
        if error.where:
            raise
        raise ConfigError(error.what, where=source, fix=error.fix) from None


def _convert(hint: Any, value: Any, source: str, key: str) -> Any:
    """Convert a YAML value to the annotated type, or refuse it by name."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, source, key)
    if origin is typing.Literal:
        if value not in args:
            choices = ", ".join(map(str, args))
            raise ConfigError(f"'{key}' is '{value}'", where=source, fix=f"Choose from: {choices}")
        return value
    if dataclasses.is_dataclass(hint):
        return (
            value
            if isinstance(value, typing.cast(type, hint))
            else _build(hint, value, source, f"{key}.")
        )
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        if len(args) == 2 and args[1] is Ellipsis:
            if isinstance(value, str) and args[0] in (int, float) and "," in value:
                wanted = f"Write a list: {key}: [{', '.join(value.replace(',', ' ').split())}]"
                raise ConfigError(f"'{key}' is '{value}'", where=source, fix=wanted)
            return tuple(_convert(args[0], item, source, key) for item in items)
        if len(items) != len(args):
            raise ConfigError(f"'{key}' needs {len(args)} values", where=source)
        return tuple(_convert(a, item, source, key) for a, item in zip(args, items, strict=True))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"'{key}' must hold keys and values", where=source)
        return {str(k): _convert(args[1], v, source, f"{key}.{k}") for k, v in value.items()}
    return _convert_scalar(hint, value, source, key)


def _convert_union(args: tuple[Any, ...], value: Any, source: str, key: str) -> Any:
    if value is None and type(None) in args:
        return None
    problems = []
    for hint in (arg for arg in args if arg is not type(None)):
        try:
            return _convert(hint, value, source, key)
        except ConfigError as error:
            problems.append(error)
    literals = [hint for hint in args if typing.get_origin(hint) is typing.Literal]
    words = [str(word) for hint in literals for word in typing.get_args(hint)]
    if words and {int, float} & set(args):
        fix = f"Use a number or {' or '.join(words)}"
        raise ConfigError(f"'{key}' is {value!r}", where=source, fix=fix)
    raise problems[-1]


def _convert_scalar(hint: Any, value: Any, source: str, key: str) -> Any:
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML reads 1e-4 as text
        try:
            return float(value)
        except ValueError:
            pass
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    is_bool_for_int = hint is int and isinstance(value, bool)
    if isinstance(hint, type) and isinstance(value, hint) and not is_bool_for_int:
        return value
    wanted = getattr(hint, "__name__", str(hint))
    raise ConfigError(f"'{key}' is {value!r}, which is not of type {wanted}", where=source)
