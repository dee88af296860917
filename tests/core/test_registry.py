"""The registry refuses collisions, suggests names and isolates what is broken."""

from __future__ import annotations

import pytest

from spade_bench import plugins
from spade_bench.errors import PluginError
from spade_bench.registry import Registry, tasks
from spade_bench.types import EncoderCard


def card(name: str) -> EncoderCard:
    return EncoderCard(name=name, input="image", dim=3, description="a test")


def test_registers_and_loads() -> None:
    registry: Registry[EncoderCard] = Registry("encoder")

    @registry.register(card("tiny"))
    def load(x: int) -> int:
        return x + 1

    assert registry.get("tiny").load(1) == 2
    assert registry.names() == ["tiny"]
    assert "tiny" in registry
    assert "huge" not in registry


def test_refuses_collisions_and_names_both_sides() -> None:
    registry: Registry[EncoderCard] = Registry("encoder")
    registry.add(card("tiny"), object)
    with pytest.raises(PluginError, match=r"my_file\.py: encoder 'tiny' is already .* built-in"):
        registry.from_origin("my_file.py", lambda: registry.add(card("tiny"), object))


@pytest.mark.parametrize(("typed", "near"), [("unii", "'uni'"), ("UNI", "'uni'"), ("resnet", "'r")])
def test_suggests_near_names(typed: str, near: str) -> None:
    registry: Registry[EncoderCard] = Registry("encoder")
    for name in ("uni", "resnet50", "conch"):
        registry.add(card(name), object)
    with pytest.raises(PluginError, match=f"Did you mean {near}"):
        registry.get(typed)


def test_registration_is_all_or_nothing() -> None:
    registry: Registry[EncoderCard] = Registry("encoder")

    def half() -> None:
        registry.add(card("first"), object)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        registry.from_origin("x", half)
    assert registry.names() == []


def test_discovery_runs_once_and_before_first_read() -> None:
    registry: Registry[EncoderCard] = Registry("encoder")
    calls: list[int] = []

    def discover(found: Registry[EncoderCard]) -> None:
        calls.append(1)
        found.add(card("late"), object)

    registry.on_first_use(discover)
    assert calls == []
    assert registry.names() == ["late"]
    assert registry.names() == ["late"]
    assert calls == [1]


def test_a_prefix_serves_names_that_are_not_listed() -> None:
    registry: Registry[EncoderCard] = Registry("encoder")
    registry.add(card("tiny"), object)
    registry.on_prefix("zoo", lambda rest: (card(f"zoo:{rest}"), rest.upper))
    plugin = registry.get("zoo:a/b")
    assert (plugin.name, plugin.card.name, plugin.load()) == ("zoo:a/b", "zoo:a/b", "A/B")
    assert "zoo:a/b" in registry
    assert "zoo:" not in registry
    assert "other:a" not in registry
    assert registry.names() == ["tiny"]
    assert registry.prefixes == ["zoo"]
    with pytest.raises(PluginError, match="already registered"):
        registry.on_prefix("zoo", lambda rest: (card(rest), object))
    with pytest.raises(PluginError, match="Unknown encoder 'zoo:'"):
        registry.get("zoo:")


def test_a_prefix_of_a_broken_plugin_goes_with_it() -> None:
    registry: Registry[EncoderCard] = Registry("encoder")

    def broken() -> None:
        registry.on_prefix("zoo", lambda rest: (card(rest), object))
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        registry.from_origin("my_file.py", broken)
    assert registry.prefixes == []


def test_installing_twice_finds_nothing_twice() -> None:
    before = tasks.names()
    plugins.install()
    assert tasks.names() == before
    assert not tasks.broken
