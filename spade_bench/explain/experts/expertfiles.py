"""Write what there is to see of a mixture of experts: maps, shares, top patches, UMAP, genes.

maps/SLIDE-*.png, .pdf     experts, weights, entropy and distance on the slide
genes/SLIDE-GENE.png       predicted expression
geojson/SLIDE.geojson      for QuPath, where asked for
viewer/index.html          every layer on the slide, for a browser, where asked for
expert_shares*, top_patches*, umap*   tables and pictures of all slides
experts.json               the slides that were mapped, and every file
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench import console
from spade_bench.cohorts.spelling import read_flag
from spade_bench.errors import UserError
from spade_bench.explain.detections import write_detections
from spade_bench.explain.earlierfiles import (
    clear_viewer,
    read_earlier,
    remove_kinds,
    remove_listed,
)
from spade_bench.explain.experts.expertmaps import (
    ExpertMap,
    expert_name,
    routing_marks,
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
from spade_bench.explain.experts.expertsource import ExpertSource, check_alike
from spade_bench.explain.experts.expertviews import expert_view
from spade_bench.explain.experts.patchumap import SAMPLE, patch_umap, plot_umap
from spade_bench.explain.experts.predictedgenes import gene_predictor, predicted_layers
from spade_bench.explain.mapfolder import Wishes
from spade_bench.explain.overlay import (
    Background,
    overlay_figure,
    panel_figure,
    save_figure,
    slide_background,
)
from spade_bench.explain.viewer.viewerfiles import write_viewer
from spade_bench.files import atomic_path, file_name, write_json
from spade_bench.report.naming import encoder_title
from spade_bench.spatial.panelgenes import check_in_panel

if TYPE_CHECKING:
    import pandas as pd

    from spade_bench.explain.experts.predictedgenes import PredictsExpression
    from spade_bench.explain.layers import Layer

__all__ = ["LISTING", "SCHEMA", "ExpertFiles", "write_expert_maps"]

LISTING = "experts.json"
SCHEMA = "spade-bench/expert-maps/1"
SIMULATED = "simulated data"
_COMMAND = "spade-bench explain WEIGHTS"
_KINDS = {"maps": {".png", ".pdf"}, "genes": {".png", ".pdf"}, "geojson": {".geojson", ".gz"}}
_WEIGHTS_SHOWN = 5  # experts whose weights stand beside each other for a slide


@dataclass
class ExpertFiles:
    """What `write_expert_maps` made.

    Attributes:
        files: Every file, in the order in which they were written; of a viewer its first page.
        layers: Slide id -> its layers, for a viewer or GeoJSON.
        viewer: First page of the viewer; None where none was asked for.
    """

    files: list[Path] = field(default_factory=list)
    layers: dict[str, list[Layer]] = field(default_factory=dict)
    viewer: Path | None = None


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
    wishes: Wishes | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
    marks: Sequence[str] = (),
    formats: Sequence[str] = ("png", "pdf"),
) -> ExpertFiles:
    """Write the maps of a mixture of experts.

    Shares, top patches and the UMAP speak of all slides that ``features`` holds; pictures are drawn
    of the slides in ``mapped``.

    Args:
        out: Folder to write: new, empty, or one that this wrote before, whose files are replaced.
        features: A folder of features or bags. With ``encoder`` they are those it takes; without,
            features that `encode --with-routing` wrote.
        encoder: A loaded encoder of features that offers `route`, and for genes `gene_predictor`.
        slides: Slide id -> file of the slide, for the pictures.
        mapped: Slides to draw; None draws all.
        table: Cohort table with `slide_id`, by whose columns shares and UMAP are shown.
        genes: Genes whose expression is predicted.
        spots: Where the encoder's training spots lie; None looks beside its weights.
        wishes: Whether slides are drawn, how many patches of each expert are listed (the first 20
            are shown where slides are given), and whether there are files for QuPath and a viewer.
        sample: Patches of the UMAP; 0 leaves it out.
        seed: Seed of whatever is drawn at random.
        marks: What every picture must say, such as "simulated data".
        formats: Suffixes of the pictures.

    Raises:
        ConfigError: When the encoder has no experts, or predicts no expression.
        UserError: When genes are asked for without an encoder, one is not in its panel, or a viewer
            without the slides.
        DataError: When the features carry no routing, there are none of a slide, or the folder
            holds something else.
    """
    source = ExpertSource.of(features, encoder)
    chosen = source.chosen(mapped)
    wishes = wishes or Wishes()
    _check_wishes(wishes, chosen, slides or {})
    predictor = _predictor(source, chosen[0], genes, spots, seed)
    facts = None if table is None else slide_facts(table, list(source.places))
    said = _with_simulated(marks, encoder, facts)
    folder = _Folder(Path(out), wishes, slides or {}, facts, said, tuple(formats))
    maps: list[ExpertMap] = []
    for one in source.maps():
        maps.append(one)
        if one.slide_id in chosen:
            predicted = [] if predictor is None else folder.predict(source, one, predictor, genes)
            folder.add(one, predicted)
    check_alike(maps)
    folder.tables(maps)
    folder.top(maps)
    if sample:
        folder.umap(source, maps, sample, seed)
    return folder.close()


def _check_wishes(wishes: Wishes, chosen: Sequence[str], slides: Mapping[str, Path]) -> None:
    """Refuse what cannot be done before anything is written.

    Raises:
        UserError: Naming the option.
    """
    wishes.check_options()
    of_models = {"--blind": wishes.blind, "--regions": wishes.regions}
    for flag, given in of_models.items():
        if given:
            raise UserError("the maps of experts take no such option", where=flag,
                            fix="Leave it out")  # fmt: skip
    absent = [slide for slide in chosen if slide not in slides]
    if wishes.viewer and absent:
        raise UserError(
            "the viewer needs the slides", where=absent[0], fix="Name their folder with --slides"
        )


def _predictor(
    source: ExpertSource, slide: str, genes: Sequence[str], spots: Path | None, seed: int
) -> PredictsExpression | None:
    """What predicts genes, once it is known that it can; None where no gene is asked for."""
    if not genes and spots is not None:
        raise UserError(
            "says from which spots genes are predicted, and none is asked for",
            where="--training-spots",
            fix="Name genes with --genes, or leave it out",
        )
    if not genes:
        return None
    panel = getattr(source.encoder, "genes", ())
    if panel:  # known before sections are read, which takes long
        check_in_panel(genes, panel)
    if source.encoder is None:
        raise UserError(
            "expression is predicted from base features by an encoder, and none is given",
            where="--genes",
            fix="Give the encoder and its base features instead of encoded ones",
        )
    predictor = gene_predictor(source.encoder, spots, seed=seed)
    predictor.predict(source.bag(slide).features[:0], genes, nearest=1)  # names, at once
    return predictor


@dataclass
class _Folder:
    """Writes maps, pictures and tables into a folder, and remembers what it wrote."""

    out: Path
    wishes: Wishes
    slides: Mapping[str, Path]
    facts: pd.DataFrame | None
    marks: tuple[str, ...]
    formats: tuple[str, ...]
    made: ExpertFiles = field(default_factory=ExpertFiles)

    def __post_init__(self) -> None:
        """Refuse a folder that holds something else."""
        self._maps: list[ExpertMap] = []
        self._earlier = read_earlier(self.out, LISTING, SCHEMA, _COMMAND)
        self._begun = False

    def _begin(self) -> None:
        """Make room for the first file: what is refused before it costs no earlier map."""
        if self._begun:
            return
        self._begun = True
        if self._earlier is not None:
            remove_listed(self.out, self._earlier.get("files", ()))
            cut_off = self._earlier.get("complete") is False
            if cut_off:
                remove_kinds(self.out, _KINDS)
            if self.wishes.viewer or cut_off or self._earlier.get("viewer"):
                clear_viewer(self.out / "viewer", tiles_stay=self.wishes.viewer)
        # Says whose the folder is from the start: a call that was cut off can be made again.
        write_json(self.out / LISTING, {"schema": SCHEMA, "complete": False, "files": []})

    def predict(
        self,
        source: ExpertSource,
        one: ExpertMap,
        predictor: PredictsExpression,
        genes: Sequence[str],
    ) -> list[Layer]:
        """The predicted genes of a slide, a layer each."""
        patients = set()
        if self.facts is not None and one.slide_id in self.facts.index:
            row = self.facts.loc[one.slide_id]
            patients = {str(row[name]) for name in ("case_id", "patient_id") if name in row}
        bag, name = source.bag(one.slide_id), source.encoder.card.name
        return predicted_layers(bag, predictor, genes, encoder=name, patients=patients)

    def add(self, one: ExpertMap, predicted: Sequence[Layer]) -> None:
        """Write what there is to see of one slide."""
        self._begin()
        layers = one.layers()
        self.made.layers[one.slide_id] = [*layers, *predicted]
        self._maps.append(one)
        if self.wishes.pictures:
            self._draw(one, layers, predicted)
        if self.wishes.geojson:
            self._write_detections(one, predicted)

    def _draw(self, one: ExpertMap, layers: Sequence[Layer], predicted: Sequence[Layer]) -> None:
        below, name = _background(one, layers[0], self.slides), file_name(one.slide_id)
        marks = (*self.marks, *routing_marks([one]))
        by_key = {layer.key.split(".", 1)[1]: layer for layer in layers}
        for key in ("expert", "entropy", "distance"):
            figure = overlay_figure(by_key[key], below, one.slide_id, marks=marks)
            self.picture(figure, f"maps/{name}-{key}")
        weights = [layer for layer in layers if ".weight." in layer.key]
        weights.sort(key=lambda layer: -float(layer.values.sum()))
        figure = panel_figure(weights[:_WEIGHTS_SHOWN], below, one.slide_id, marks=marks)
        self.picture(figure, f"maps/{name}-weights")
        marks = ("predicted, not measured", *self.marks)
        for layer in predicted:
            gene = file_name(_gene_of(layer))
            figure = overlay_figure(layer, below, one.slide_id, marks=marks)
            self.picture(figure, f"genes/{name}-{gene}")

    def _write_detections(self, one: ExpertMap, predicted: Sequence[Layer]) -> None:
        """The patches for QuPath: their expert as class, and all numbers as measurements."""
        values = one.to_dataframe().drop(columns=["slide_id", "x", "y", "expert"])
        measured = {str(name): column.to_numpy(dtype=float) for name, column in values.items()}
        measured |= {f"predicted_{_gene_of(layer)}": layer.values for layer in predicted}
        suffix = ".geojson.gz" if self.wishes.gzip else ".geojson"
        path = self.out / "geojson" / f"{file_name(one.slide_id)}{suffix}"
        write_detections(
            path, one.layers([])[:1], measurements=measured, offset=one.offset,
            max_detections=self.wishes.max_detections,
        )  # fmt: skip
        self.made.files.append(path)

    def tables(self, maps: Sequence[ExpertMap]) -> None:
        """Write the share of each expert in slides, and in what a table says of them."""
        self._begin()
        encoder, facts = encoder_title(maps[0].encoder), self.facts
        marks = (*self.marks, *routing_marks(maps))
        for mark in routing_marks(maps):
            console.say(mark)
        shares = expert_shares(maps)
        self.table(shares, "expert_shares")
        figure = plot_shares(shares, f"{encoder}: experts per slide", marks=marks)
        self.picture(figure, "expert_shares")
        for column in () if facts is None else [c for c in ("case_id", *GROUPS) if c in facts]:
            assert facts is not None
            grouped = shares_by(shares, facts, column)
            word = column.removesuffix("_id")
            self.table(grouped, f"expert_shares_by_{word}")
            if column in GROUPS:
                title = f"{encoder}: experts by {word}, mean over cases"
                self.picture(plot_shares(grouped, title, marks=marks),
                             f"expert_shares_by_{word}")  # fmt: skip

    def top(self, maps: Sequence[ExpertMap]) -> None:
        """Write the patches that are most each expert's own."""
        import pandas as pd

        if not self.wishes.top:
            return
        n_experts = maps[0].routing.n_experts
        found = [p for e in range(n_experts) for p in top_patches(maps, e, self.wishes.top)]
        frame = pd.DataFrame([vars(patch) for patch in found])
        self.table(frame.set_index("expert"), "top_patches")
        names = {e: expert_name(e, n_experts) for e in range(n_experts)}
        title = f"{encoder_title(maps[0].encoder)}: patches that are most each expert's own"
        sheet = expert_sheet(found, self.slides, names, title, marks=self.marks)
        if sheet is not None:
            self.picture(sheet, "top_patches")

    def umap(self, source: ExpertSource, maps: Sequence[ExpertMap], sample: int, seed: int) -> None:
        """Write a UMAP of patches of all slides, by expert and by what a table says of them."""
        by_slide, facts = {one.slide_id: one for one in maps}, self.facts
        counts = {slide: len(one.routing.expert) for slide, one in by_slide.items()}
        console.say(f"UMAP of {min(sample, sum(counts.values())):,} patches")
        found = patch_umap(counts, source.encoded, most=sample, seed=seed)
        points = found.points
        points["expert"] = [
            expert_name(int(by_slide[s].routing.expert[p]), by_slide[s].routing.n_experts)
            for s, p in zip(points["slide_id"], points["patch"], strict=True)
        ]
        columns = ["expert"]
        for column in () if facts is None else [c for c in ("organ", "site") if c in facts]:
            assert facts is not None
            points[column] = points["slide_id"].map(facts[column])
            columns.append(column)
        self.table(points.set_index("slide_id"), "umap")
        title = f"{encoder_title(maps[0].encoder)}: UMAP of patches"
        self.picture(plot_umap(found, columns, title, marks=self.marks), "umap")

    def close(self) -> ExpertFiles:
        """Write the viewer and the listing."""
        made = self.made
        content: dict[str, Any] = {"schema": SCHEMA, "complete": True}
        if self.wishes.viewer:
            views = [
                expert_view(one, made.layers[one.slide_id], self.slides[one.slide_id],
                            top=self.wishes.top, marks=(*self.marks, *routing_marks([one])),
                            facts=self.facts)
                for one in self._maps
            ]  # fmt: skip
            made.viewer = write_viewer(self.out / "viewer", views, viewer_px=self.wishes.viewer_px)
            made.files.append(made.viewer)
            content["viewer"] = made.viewer.relative_to(self.out).as_posix()
        content["slides"] = list(made.layers)
        content["files"] = [path.relative_to(self.out).as_posix() for path in made.files]
        write_json(self.out / LISTING, content)
        return made

    def picture(self, figure: Any, name: str) -> None:
        for suffix in self.formats:
            self.made.files.append(save_figure(figure, self.out / f"{name}.{suffix}"))

    def table(self, frame: pd.DataFrame, name: str) -> None:
        path = self.out / f"{name}.csv"
        with atomic_path(path) as temporary:
            frame.to_csv(temporary, float_format="%.6g")
        self.made.files.append(path)


def _gene_of(layer: Layer) -> str:
    return layer.key.partition(".predicted.")[2]


def _with_simulated(
    marks: Sequence[str], encoder: Any, facts: pd.DataFrame | None
) -> tuple[str, ...]:
    """The marks of all pictures; simulated data say so whether or not the caller does."""
    flags = () if facts is None or "simulated" not in facts else facts["simulated"]
    simulated = bool(getattr(encoder, "simulated", False)) or any(map(read_flag, flags))
    known = [SIMULATED] if simulated and SIMULATED not in marks else []
    return (*marks, *known)


def _background(one: ExpertMap, layer: Layer, slides: Mapping[str, Path]) -> Background:
    path = slides.get(one.slide_id)
    if path is None:
        return Background.of(layer, one.level0_mpp)
    return slide_background(path, mpp=one.level0_mpp)
