"""Write what there is to see of a mixture of experts: maps, shares, top patches, UMAP, genes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench import console
from spade_bench.cohorts.spelling import read_flag
from spade_bench.errors import DataError, UserError, name_some
from spade_bench.explain.experts.expertmaps import (
    ExpertMap,
    expert_map,
    expert_name,
    top_patches,
)
from spade_bench.explain.experts.expertshares import (
    GROUPS,
    expert_shares,
    plot_shares,
    shares_by,
    slide_facts,
)
from spade_bench.explain.experts.expertsheet import expert_sheet
from spade_bench.explain.experts.patchumap import SAMPLE, patch_umap, plot_umap
from spade_bench.explain.experts.predictedgenes import gene_predictor, predicted_layers
from spade_bench.explain.overlay import (
    Background,
    overlay_figure,
    panel_figure,
    save_figure,
    slide_background,
)
from spade_bench.extraction.feature_bags import routes_of
from spade_bench.features.annotated import bags_in_memory
from spade_bench.features.bags import find_bags, read_bag
from spade_bench.features.routinggroup import read_routing
from spade_bench.files import atomic_path, file_name

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from spade_bench.explain.experts.predictedgenes import PredictsExpression
    from spade_bench.explain.layers import Layer
    from spade_bench.types import Bag, Routing

__all__ = ["ExpertFiles", "write_expert_maps"]

SIMULATED = "simulated data"
_WEIGHTS_SHOWN = 5  # experts whose weights stand beside each other for a slide


@dataclass
class ExpertFiles:
    """What `write_expert_maps` made.

    Attributes:
        files: Every file, in the order in which they were written.
        layers: Slide id -> its layers, for a viewer or GeoJSON.
    """

    files: list[Path] = field(default_factory=list)
    layers: dict[str, list[Layer]] = field(default_factory=dict)


def write_expert_maps(
    out: str | Path,
    features: str | Path | Any,
    *,
    encoder: Any = None,
    slides: Mapping[str, Path] | None = None,
    mapped: Sequence[str] | None = None,
    table: Path | pd.DataFrame | None = None,
    genes: Sequence[str] = (),
    spots: Path | None = None,
    top: int = 50,
    sample: int = SAMPLE,
    seed: int = 0,
    marks: Sequence[str] = (),
    formats: Sequence[str] = ("png", "pdf"),
) -> ExpertFiles:
    """Write the maps of a mixture of experts.

    Shares, top patches and the UMAP speak of all slides that ``features`` holds; pictures are drawn
    of the slides in ``mapped``.

    Args:
        out: Folder to write.
        features: A folder of features or bags. With ``encoder`` they are those it takes; without,
            features that `encode --with-routing` wrote.
        encoder: A loaded encoder of features that offers `route`, and for genes `gene_predictor`.
        slides: Slide id -> file of the slide, for the pictures.
        mapped: Slides to draw; None draws all.
        table: Cohort table with `slide_id`, by whose columns shares and UMAP are shown.
        genes: Genes whose expression is predicted.
        spots: Where the encoder's training spots lie; None looks beside its weights.
        top: Patches of each expert that are listed; the first 20 are shown where slides are given.
        sample: Patches of the UMAP; 0 leaves it out.
        seed: Seed of whatever is drawn at random.
        marks: What every picture must say, such as "simulated data".
        formats: Suffixes of the pictures.

    Raises:
        ConfigError: When the encoder has no experts, or predicts no expression.
        UserError: When genes are asked for without an encoder, or one is not in its panel.
        DataError: When the features carry no routing, or there are none of a slide.
    """
    if genes and encoder is None:
        raise UserError(
            "expression is predicted from base features by an encoder, and none is given",
            where="--genes",
            fix="Give the encoder and its base features instead of encoded ones",
        )
    source = _Source.of(features, encoder)
    chosen = source.chosen(mapped)
    predictor = gene_predictor(encoder, spots, seed=seed) if genes else None
    if predictor is not None:
        predictor.predict(source.bag(chosen[0]).features[:0], genes, nearest=1)  # names, at once
    facts = None if table is None else slide_facts(table, list(source.places))
    work = _Writing(
        Path(out), _with_simulated(marks, encoder, facts), tuple(formats), ExpertFiles()
    )
    maps: list[ExpertMap] = []
    for slide, one in source.maps():
        maps.append(one)
        if slide in chosen:
            below = _background(one, slides)
            layers = one.layers()
            work.draw_slide(one, layers, below)
            if predictor is not None:
                layers += work.draw_genes(source, slide, predictor, genes, below)
            work.made.layers[slide] = layers
    _check_alike(maps)
    work.tables(maps, facts)
    work.top(maps, top, slides or {})
    if sample:
        work.umap(source, maps, facts, sample, seed)
    return work.made


@dataclass
class _Source:
    """Where the features of slides come from."""

    encoder: Any
    places: Mapping[str, Path | Bag]
    where: str
    route: Callable[[Any], Routing] | None

    @classmethod
    def of(cls, features: str | Path | Any, encoder: Any) -> _Source:
        route = None if encoder is None else routes_of(encoder)
        if isinstance(features, (str, Path)):
            takes = None if encoder is None else encoder.card.upstream
            named = None if takes in (None, "", "any") else takes
            return cls(encoder, find_bags(Path(features), named), str(features), route)
        bags = bags_in_memory(features)
        return cls(encoder, {bag.slide_id: bag for bag in bags}, "features", route)

    def chosen(self, mapped: Sequence[str] | None) -> list[str]:
        wanted = list(self.places if mapped is None else mapped)
        absent = [name for name in wanted if name not in self.places]
        if absent or not wanted:
            raise DataError(
                f"no features of slide '{absent[0]}'" if absent else "no slide is named",
                where=self.where,
                fix=f"There are {name_some(self.places, 5)}",
            )
        return wanted

    def bag(self, slide: str) -> Bag:
        place = self.places[slide]
        if not isinstance(place, Path):
            return place
        bag = read_bag(place)
        return bag if self.route is not None else replace(bag, routing=read_routing(place))

    def maps(self) -> Iterator[tuple[str, ExpertMap]]:
        """The map of every slide that has patches."""
        for slide in console.track(self.places, "Mapping experts", len(self.places), "slides"):
            bag = self.bag(slide)
            if not len(bag.features):
                continue
            if self.route is not None:
                routing = self.route(bag.features)
                bag = replace(bag, routing=routing, encoder=self.encoder.card.name)
            yield slide, expert_map(bag)

    def encoded(self, slide: str, rows: NDArray[np.int64]) -> NDArray[np.floating]:
        """The mixture's own features of some patches, (m, P)."""
        import numpy as np

        values = np.asarray(self.bag(slide).features[rows], dtype=np.float32)  # (m, D)
        return values if self.encoder is None else np.asarray(self.encoder.encode(values))


@dataclass
class _Writing:
    """Writes pictures and tables, and remembers what it wrote."""

    out: Path
    marks: tuple[str, ...]
    formats: tuple[str, ...]
    made: ExpertFiles

    def draw_slide(self, one: ExpertMap, layers: Sequence[Layer], below: Background) -> None:
        name = file_name(one.slide_id)
        by_key = {layer.key.split(".", 1)[1]: layer for layer in layers}
        for key in ("expert", "entropy", "distance"):
            figure = overlay_figure(by_key[key], below, one.slide_id, marks=self.marks)
            self.picture(figure, f"maps/{name}-{key}")
        weights = [layer for layer in layers if ".weight." in layer.key]
        weights.sort(key=lambda layer: -float(layer.values.sum()))
        figure = panel_figure(weights[:_WEIGHTS_SHOWN], below, one.slide_id, marks=self.marks)
        self.picture(figure, f"maps/{name}-weights")

    def draw_genes(
        self,
        source: _Source,
        slide: str,
        predictor: PredictsExpression,
        genes: Sequence[str],
        below: Background,
    ) -> list[Layer]:
        name = source.encoder.card.name
        layers = predicted_layers(source.bag(slide), predictor, genes, encoder=name)
        for gene, layer in zip(genes, layers, strict=True):
            marks = ("predicted, not measured", *self.marks)
            figure = overlay_figure(layer, below, slide, marks=marks)
            self.picture(figure, f"genes/{file_name(slide)}-{file_name(gene)}")
        return layers

    def tables(self, maps: Sequence[ExpertMap], facts: pd.DataFrame | None) -> None:
        encoder = maps[0].encoder
        shares = expert_shares(maps)
        self.table(shares, "expert_shares")
        figure = plot_shares(shares, f"{encoder}: experts per slide", marks=self.marks)
        self.picture(figure, "expert_shares")
        there = () if facts is None else [c for c in ("case_id", *GROUPS) if c in facts]
        for column in there:
            assert facts is not None
            grouped = shares_by(shares, facts, column)
            word = column.removesuffix("_id")
            self.table(grouped, f"expert_shares_by_{word}")
            if column in GROUPS:
                title = f"{encoder}: experts by {word}, mean over cases"
                self.picture(plot_shares(grouped, title, marks=self.marks),
                             f"expert_shares_by_{word}")  # fmt: skip

    def top(self, maps: Sequence[ExpertMap], most: int, slides: Mapping[str, Path]) -> None:
        import pandas as pd

        n_experts = maps[0].routing.n_experts
        found = [patch for e in range(n_experts) for patch in top_patches(maps, e, most)]
        frame = pd.DataFrame([vars(patch) for patch in found])
        self.table(frame.set_index("expert"), "top_patches")
        names = {e: expert_name(e, n_experts) for e in range(n_experts)}
        title = f"{maps[0].encoder}: patches that are most each expert's own"
        sheet = expert_sheet(found, slides, names, title, marks=self.marks)
        if sheet is not None:
            self.picture(sheet, "top_patches")

    def umap(
        self,
        source: _Source,
        maps: Sequence[ExpertMap],
        facts: pd.DataFrame | None,
        sample: int,
        seed: int,
    ) -> None:
        by_slide = {one.slide_id: one for one in maps}
        counts = {slide: len(one.routing.expert) for slide, one in by_slide.items()}
        console.say(f"UMAP of {min(sample, sum(counts.values())):,} patches")
        found = patch_umap(counts, source.encoded, most=sample, seed=seed)
        points = found.points
        experts = [
            expert_name(int(by_slide[s].routing.expert[p]), by_slide[s].routing.n_experts)
            for s, p in zip(points["slide_id"], points["patch"], strict=True)
        ]
        points["expert"] = experts
        columns = ["expert"]
        for column in () if facts is None else [c for c in ("organ", "site") if c in facts]:
            assert facts is not None
            points[column] = points["slide_id"].map(facts[column])
            columns.append(column)
        self.table(points.set_index("slide_id"), "umap")
        title = f"{maps[0].encoder}: UMAP of patches"
        self.picture(plot_umap(found, columns, title, marks=self.marks), "umap")

    def picture(self, figure: Any, name: str) -> None:
        for suffix in self.formats:
            self.made.files.append(save_figure(figure, self.out / f"{name}.{suffix}"))

    def table(self, frame: pd.DataFrame, name: str) -> None:
        path = self.out / f"{name}.csv"
        with atomic_path(path) as temporary:
            frame.to_csv(temporary, float_format="%.6g")
        self.made.files.append(path)


def _with_simulated(
    marks: Sequence[str], encoder: Any, facts: pd.DataFrame | None
) -> tuple[str, ...]:
    """The marks of all pictures; simulated data say so whether or not the caller does."""
    flags = () if facts is None or "simulated" not in facts else facts["simulated"]
    simulated = bool(getattr(encoder, "simulated", False)) or any(map(read_flag, flags))
    known = [SIMULATED] if simulated and SIMULATED not in marks else []
    return (*marks, *known)


def _background(one: ExpertMap, slides: Mapping[str, Path] | None) -> Background:
    path = (slides or {}).get(one.slide_id)
    layer = one.layers([])[0]
    if path is None:
        return Background.of(layer, one.level0_mpp)
    return slide_background(path, mpp=one.level0_mpp)


def _check_alike(maps: Sequence[ExpertMap]) -> None:
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
