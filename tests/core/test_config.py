"""Typed config: unknown keys fail with a suggestion, later sources win."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from spade_bench import config
from spade_bench.encoders.spade.pretraining.pretrainconfig import PretrainConfig
from spade_bench.encoders.tangle.pretraining.tangleconfig import TangleConfig
from spade_bench.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    mode: Literal["soft", "hard"] = "soft"


@dataclass(frozen=True)
class Outer:
    count: int = 1
    name: str | None = None
    folder: Path = Path()
    shots: tuple[int, ...] = (1,)
    limit: int | Literal["auto"] = "auto"
    flag: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)


def test_builds_nested_values_and_keeps_defaults() -> None:
    built = config.build(
        Outer, {"count": 3, "shots": [2, 4], "inner": {"rate": "1e-4"}, "folder": "a", "limit": 7}
    )
    assert built == Outer(count=3, shots=(2, 4), inner=Inner(rate=1e-4), folder=Path("a"), limit=7)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"cuont": 1}, "unknown key 'cuont'.*Did you mean 'count'"),
        ({"inner": {"raet": 1}}, "unknown key 'inner.raet'.*'rate'"),
        ({"count": "three"}, "'count' is 'three', which is not of type int"),
        ({"count": True}, "'count' is True"),
        ({"shots": "1,2, 4"}, r"'shots' is '1,2, 4'. Write a list: shots: \[1, 2, 4\]"),
        ({"inner": {"mode": "sfot"}}, "Choose from: soft, hard"),
        ({"limit": "atuo"}, "Use a number or auto"),
        ({"inner": 3}, "must hold keys"),
        ({"flag": 1}, "not of type bool"),
    ],
)
def test_refuses_wrong_input_in_one_line(mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        config.build(Outer, mapping, "my.yaml")
    assert str(caught.value).startswith("my.yaml: ")
    assert "\n" not in str(caught.value)


def test_set_is_read_as_yaml() -> None:
    assert config.parse_set(["a.b=1", "a.c=[x, 2]", "d=null", "e=1e-3"]) == {
        "a": {"b": 1, "c": ["x", 2]},
        "d": None,
        "e": "1e-3",
    }
    with pytest.raises(ConfigError, match="key=value"):
        config.parse_set(["a.b"])
    with pytest.raises(ConfigError, match="not valid YAML"):
        config.parse_set(["a=[1"])


def test_later_sources_win_key_by_key() -> None:
    merged = config.merge({"a": {"x": 1, "y": 1}, "b": 1}, None, {"a": {"y": 2}}, {"b": 3})
    assert merged == {"a": {"x": 1, "y": 2}, "b": 3}


def test_named_configs_suggest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'hest1k'"):
        config.named_config("pretrain", "hest1")
    file = tmp_path / "c.yaml"
    file.write_text("a: [1\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        config.named_config("pretrain", str(file))


@pytest.mark.parametrize("name", config.names_of("pretrain"))
def test_every_shipped_pretraining_config_builds(name: str) -> None:
    values = config.named_config("pretrain", name)
    built = config.build(TangleConfig if "method" in values else PretrainConfig, values, name)
    assert config.build(type(built), config.to_dict(built)) == built
