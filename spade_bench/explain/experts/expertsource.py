"""Where the features of slides come from, and how a mixture of experts sends them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench import console
from spade_bench.errors import DataError, name_some
from spade_bench.explain.experts.expertmaps import ExpertMap, expert_map
from spade_bench.extraction.feature_bags import routes_of
from spade_bench.features.annotated import bags_in_memory
from spade_bench.features.bags import find_bags, read_bag
from spade_bench.features.routinggroup import read_routing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.types import Bag, Routing

__all__ = ["ExpertSource", "check_alike"]


@dataclass
class ExpertSource:
    """Slides whose patches are sent to experts.

    Attributes:
        encoder: A loaded encoder that offers `route`; None where the features carry routing.
        places: Slide id -> its feature file, or its bag.
        where: What holds the features, for messages.
        route: Sends features to experts; None where that is stored.
    """

    encoder: Any
    places: Mapping[str, Path | Bag]
    where: str
    route: Callable[[Any], Routing] | None

    @classmethod
    def of(cls, features: str | Path | Any, encoder: Any) -> ExpertSource:
        """Find the features of an encoder, or encoded ones that carry routing.

        Args:
            features: A folder of features, or bags.
            encoder: The encoder that takes them; None for encoded features.

        Raises:
            ConfigError: When the encoder has no experts.
            DataError: When there are no features.
        """
        route = None if encoder is None else routes_of(encoder)
        if isinstance(features, (str, Path)):
            takes = None if encoder is None else encoder.card.upstream
            named = None if takes in (None, "", "any") else takes
            return cls(encoder, find_bags(Path(features), named), str(features), route)
        bags = bags_in_memory(features)
        return cls(encoder, {bag.slide_id: bag for bag in bags}, "features", route)

    def chosen(self, mapped: Sequence[str] | None) -> list[str]:
        """Return the slides that are drawn; all of them where none is named.

        Raises:
            DataError: When one has no features.
        """
        wanted = list(self.places if mapped is None else mapped)
        absent = [name for name in wanted if name not in self.places]
        if absent or not wanted:
            raise DataError(
                f"no features of slide '{absent[0]}'" if absent else "no slide is named",
                where=self.where,
                fix=f"There are {name_some(self.places, 5)}; what a case has, --table says",
            )
        return wanted

    def bag(self, slide: str) -> Bag:
        """Return the features of a slide, with their routing where it is stored."""
        place = self.places[slide]
        if not isinstance(place, Path):
            return place
        bag = read_bag(place)
        return bag if self.route is not None else replace(bag, routing=read_routing(place))

    def maps(self) -> Iterator[ExpertMap]:
        """Yield the map of every slide that has patches."""
        for slide in console.track(self.places, "Mapping experts", len(self.places), "slides"):
            bag = self.bag(slide)
            if not len(bag.features):
                continue
            if self.route is not None:
                routing = self.route(bag.features)
                bag = replace(bag, routing=routing, encoder=self.encoder.card.name)
            yield replace(expert_map(bag), slide_id=slide)

    def encoded(self, slide: str, rows: NDArray[np.int64]) -> NDArray[np.floating]:
        """Return the mixture's own features of some patches, (m, P)."""
        import numpy as np

        values = np.asarray(self.bag(slide).features[rows], dtype=np.float32)  # (m, D)
        return values if self.encoder is None else np.asarray(self.encoder.encode(values))


def check_alike(maps: Sequence[ExpertMap]) -> None:
    """Refuse slides that were sent to other experts than the rest.

    Raises:
        DataError: When there are none, or numbers of experts differ.
    """
    if not maps:
        raise DataError("no slide has patches", fix="Give features with patches")
    counts = {one.routing.n_experts: one.slide_id for one in maps}
    if len(counts) > 1:
        a, b = list(counts.items())[:2]
        raise DataError(
            f"'{a[1]}' was sent to one of {a[0]} experts and '{b[1]}' to one of {b[0]}",
            fix="Encode all slides with the same weights",
        )
