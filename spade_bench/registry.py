"""One generic, lazy registry for encoders, heads, tasks and kinds of task.

A plugin registers a light card and a factory; the factory is called, and torch imported, only
when the plugin is used. Names never collide silently and a misspelt name is answered with the
nearest ones.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from spade_bench.errors import PluginError
from spade_bench.types import EncoderCard, HeadCard, LoadOptions, TaskCard

__all__ = ["Plugin", "Registry", "encoders", "expression_heads", "head_card",
           "head_registries", "heads", "heads_of_kind", "kinds", "suggest", "tasks"]  # fmt: skip

Card = TypeVar("Card")
Factory = TypeVar("Factory", bound=Callable[..., Any])


@dataclass(frozen=True)
class Plugin(Generic[Card]):
    """A registered plugin.

    Attributes:
        name: Name under which it is found.
        card: Its card.
        factory: Makes the thing; heavy imports happen inside.
        origin: Where it comes from: `built-in`, an entry point or a file.
    """

    name: str
    card: Card
    factory: Callable[..., Any]
    origin: str

    def load(self, *args: Any, **kwargs: Any) -> Any:
        """Make the thing this plugin stands for.

        An encoder is told what loaded it, as `loaded_by`: the plugin and its options.
        """
        made = self.factory(*args, **kwargs)
        if args and isinstance(args[0], LoadOptions):
            with contextlib.suppress(AttributeError):  # one that takes no attributes
                made.loaded_by = (self, args[0])
        return made


class Registry(Generic[Card]):
    """Plugins of one kind, by name.

    Args:
        kind: Singular name used in messages, such as `encoder`.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.broken: dict[str, str] = {}
        self._plugins: dict[str, Plugin[Card]] = {}
        self._origin = "built-in"
        self._prefixes: dict[str, Callable[[str], tuple[Card, Callable[..., Any]]]] = {}
        self._retired: dict[str, str] = {}
        self._discover: Callable[[Registry[Card]], None] | None = None
        self._discovering = False

    def on_first_use(self, discover: Callable[[Registry[Card]], None]) -> None:
        """Call ``discover`` once, before the registry is first read."""
        self._discover = discover

    def register(self, card: Card, name: str | None = None) -> Callable[[Factory], Factory]:
        """Return a decorator that registers a factory under the card's name.

        Raises:
            PluginError: When the name is taken by another plugin.
        """

        def decorate(factory: Factory) -> Factory:
            self.add(card, factory, name=name)
            return factory

        return decorate

    def add(self, card: Card, factory: Callable[..., Any], *, name: str | None = None) -> None:
        """Register a factory. See `register`."""
        key = name or str(getattr(card, "name", ""))
        if not key:
            raise PluginError(f"{self.kind} plugin has a card without a name", where=self._origin)
        if key in self._plugins:
            raise PluginError(
                f"{self.kind} '{key}' is already registered by {self._plugins[key].origin}",
                where=self._origin,
                fix="Give the new plugin another name",
            )
        self._plugins[key] = Plugin(key, card, factory, self._origin)

    def retire(self, name: str, why: str, successor: str) -> None:
        """Answer a name of earlier versions with the one that has taken its place, and why."""
        self._retired[name] = f"{why}; use '{successor}'"

    def on_prefix(
        self, prefix: str, make: Callable[[str], tuple[Card, Callable[..., Any]]]
    ) -> None:
        """Serve every name ``prefix:REST`` by a card and factory that ``make(REST)`` returns.

        Such names are found by `get` and `in`, but not listed: nobody knows how many there are.

        Raises:
            PluginError: When the prefix is taken.
        """
        if prefix in self._prefixes:
            raise PluginError(f"prefix '{prefix}:' is already registered", where=self._origin)
        self._prefixes[prefix] = make

    @property
    def prefixes(self) -> list[str]:
        """Prefixes that `on_prefix` knows, sorted."""
        self._ensure()
        return sorted(self._prefixes)

    def from_origin(self, origin: str, register: Callable[[], object]) -> None:
        """Run ``register`` so that all it registers carries ``origin``; all of it or nothing."""
        before, previous = (dict(self._plugins), dict(self._prefixes)), self._origin
        self._origin = origin
        try:
            register()
        except BaseException:
            self._plugins, self._prefixes = before
            raise
        finally:
            self._origin = previous

    def get(self, name: str) -> Plugin[Card]:
        """Return the plugin called ``name``.

        Raises:
            PluginError: When there is none; the message suggests near names.
        """
        self._ensure()
        if name in self._plugins:
            return self._plugins[name]
        prefix, colon, rest = name.partition(":")
        if colon and rest and prefix in self._prefixes:
            card, factory = self._prefixes[prefix](rest)
            return Plugin(name, card, factory, f"prefix {prefix}:")
        if name in self._retired:
            raise PluginError(f"{self.kind} '{name}' is gone: {self._retired[name]}")
        hint = _hint(name, sorted(self._plugins))
        broken = (
            f" ({len(self.broken)} plugin(s) failed to load, see `list`)" if self.broken else ""
        )
        raise PluginError(f"unknown {self.kind} '{name}'{broken}", fix=hint)

    @property
    def retired(self) -> frozenset[str]:
        """Names that were given up."""
        self._ensure()
        return frozenset(self._retired)

    def __contains__(self, name: object) -> bool:
        self._ensure()
        prefix, colon, rest = str(name).partition(":")
        return name in self._plugins or (bool(colon and rest) and prefix in self._prefixes)

    def __iter__(self) -> Iterator[Plugin[Card]]:
        self._ensure()
        return iter([self._plugins[name] for name in sorted(self._plugins)])

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return [plugin.name for plugin in self]

    def _ensure(self) -> None:
        if self._discover is not None and not self._discovering:
            self._discovering = True
            try:
                self._discover(self)
            finally:
                self._discover, self._discovering = None, False


def suggest(name: str, known: object, cutoff: float = 0.5) -> str:
    """Return the nearest known names as `'a' or 'b'`, or an empty string.

    Args:
        name: What was written.
        known: Names that exist.
        cutoff: How alike they must be, 0 to 1; high where the name may well be meant as it is.
    """
    names = [str(candidate) for candidate in known]  # type: ignore[attr-defined]
    near = difflib.get_close_matches(name, names, n=3, cutoff=cutoff)
    lowered = {candidate.lower(): candidate for candidate in names}
    if not near and name.lower() in lowered:
        near = [lowered[name.lower()]]
    return " or ".join(f"'{candidate}'" for candidate in near)


encoders: Registry[EncoderCard] = Registry("encoder")
heads: Registry[HeadCard] = Registry("head")
expression_heads: Registry[HeadCard] = Registry("head of expression")
tasks: Registry[TaskCard] = Registry("task")
kinds: Registry[Any] = Registry("kind of task")

EncoderFactory = Callable[[LoadOptions], Any]


def heads_of_kind(head_kind: str) -> Registry[HeadCard]:
    """Return the registry that has the heads of a kind: those of expression have their own."""
    return expression_heads if head_kind == "expression" else heads


def head_card(name: str) -> HeadCard | None:
    """Return the card of a head of either registry, that of cases first; None where none is."""
    known = next((one for one in (heads, expression_heads) if name in one), None)
    return None if known is None else known.get(name).card


def head_registries(name: str) -> list[Registry[HeadCard]]:
    """Return the registries that have a head of this name, one or both.

    Raises:
        PluginError: When none has; the message suggests near names of both.
    """
    found = [registry for registry in (heads, expression_heads) if name in registry]
    if found:
        return found
    if name in heads.retired:
        heads.get(name)  # which says what became of it
    known = sorted({*heads.names(), *expression_heads.names()})
    raise PluginError(f"unknown head '{name}'", fix=_hint(name, known))


def _hint(name: str, known: list[str]) -> str:
    """What to do about a name that nobody has registered."""
    if name.endswith((".py", ".yaml", ".yml")):
        return f"Give the file as --plugin {name}, and here the name on its card"
    if near := suggest(name, known, cutoff=0.8):
        return f"Did you mean {near}?"
    near = suggest(name, known)
    hint = f"Did you mean {near}?" if near else f"Known: {', '.join(known)}."
    return f"{hint} One of your own needs --plugin FILE"
