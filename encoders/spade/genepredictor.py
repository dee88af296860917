"""Predict expression on a slide: the training spots that a patch's expert holds for its like.

A patch and every training spot are embedded by the two heads of the patch's own expert. The
expression of the spots nearest to it there is averaged.

Source: BLEEP (arXiv 2306.01859), which averages the 50 nearest of one pair of heads; with several
experts, every candidate is seen by the expert of the QUERY. A candidate embedded by the expert of
its own image would tell from which cluster it comes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch.nn import functional

from spade_bench import console
from spade_bench.encoders.spade.genes import panel_matrix
from spade_bench.encoders.spade.numerics import exact_float32
from spade_bench.encoders.spade.preparedspots import Spots
from spade_bench.errors import BROKEN_FILE, DataError, UserError
from spade_bench.spatial.expression import read_expression
from spade_bench.spatial.hest import read_hest
from spade_bench.spatial.panelgenes import check_in_panel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spade_bench.encoders.spade.model import SpadeModel

    Floats = NDArray[np.float32]

__all__ = ["MOST_SPOTS", "NEAREST", "GenePredictor", "TrainingSpots", "training_spots"]

NEAREST = 50
MOST_SPOTS = 100_000
"""Training spots that are searched; of more, a random sample of this size."""
_QUERIES = 1024  # patches whose scores against all spots are held at once
_EMBEDDED = 4096  # spots whose expression is made dense at once
_TEMPERATURE = 0.05  # of the cosines, for softmax weights


class TrainingSpots(NamedTuple):
    """The spots that a model was trained on.

    Attributes:
        expression: Over the panel, as the model was trained on it, (m, G).
        samples: Section of each spot, m names.
        patients: Section -> its patient, where known; of sections that were held out too.
    """

    expression: sp.csr_matrix
    samples: list[str]
    patients: Mapping[str, str]


class GenePredictor:
    """Predict expression from patch features through the training spots of a model.

    Attributes:
        genes: Genes that can be predicted: the panel of the model.
        samples: Names of the sections whose spots are searched.
        unit: What the numbers are: `lognorm` or `raw`, as the model was trained.
        searched: Number of spots that are searched.
    """

    def __init__(
        self,
        model: SpadeModel,
        expression: sp.csr_matrix,
        samples: Sequence[str],
        patients: Mapping[str, str] | None = None,
        *,
        most_spots: int = MOST_SPOTS,
        seed: int = 0,
    ) -> None:
        """Take the training spots of a model.

        Args:
            model: A model with gene heads.
            expression: Of its training spots over its panel, (m, G).
            samples: Section of each spot, m names.
            patients: Section -> its patient, where known.
            most_spots: Spots to search; of more, as many are drawn.
            seed: Seed of that draw.

        Raises:
            UserError: When the model has no gene heads.
        """
        if not model.genes:
            raise UserError(
                "this model has no gene heads, so it cannot predict expression",
                fix="Use a model that `spade-bench pretrain` made: an import has images only",
            )
        total = expression.shape[0]
        if total > most_spots:
            rows = np.random.default_rng(seed).choice(total, most_spots, replace=False)
            rows.sort()
            expression, samples = expression[rows], [samples[row] for row in rows]
            console.say(f"{most_spots:,} of {total:,} training spots are searched (seed {seed})")
        self._model = model
        self._expression = sp.csr_matrix(expression, dtype=np.float32)
        self._sample = np.asarray(samples, dtype=str)  # (m,)
        self._patients = dict(patients or {})
        self._spots: dict[int, torch.Tensor] = {}
        self.genes = model.genes
        self.samples = tuple(sorted(set(self._sample.tolist())))
        self.unit = model.info.expression
        self.searched = len(self._sample)
        self._lacking, self._group = _lacking(model, self._sample)

    def patient_of(self, section: str) -> str | None:
        """Return the patient of a section; None where the model does not know."""
        return self._patients.get(section)

    def left_out(self, section: str, patients: Collection[str] = ()) -> tuple[str, ...]:
        """Name the training sections that may not predict a section: its own and its patient's.

        Args:
            section: The section that is predicted.
            patients: What others call its patient, such as the case id of a table.
        """
        own = {*patients, self.patient_of(section)} - {None, ""}
        return tuple(
            name for name in self.samples if name == section or self.patient_of(name) in own
        )

    def predict(
        self,
        features: Any,
        genes: Sequence[str],
        *,
        nearest: int = NEAREST,
        weighting: str = "uniform",
        without: Collection[str] = (),
    ) -> Floats:
        """Predict the expression of genes in patches.

        Args:
            features: Base features (n, D).
            genes: Names from the panel.
            nearest: Spots that are averaged.
            weighting: `uniform`, or `softmax` over the cosines at temperature 0.05.
            without: Sections whose spots may not be used, such as the one that is predicted.

        Returns:
            (n, len(genes)), in the unit of the training spots. Where these do not all measure the
            same genes, each gene is averaged over the nearest of those that measure it.

        Raises:
            UserError: When a gene is not in the panel, naming those nearly called so; or an
                argument is not possible.
            DataError: When no spots are left, or the features do not fit the model.
        """
        columns = self._columns(genes)
        if weighting not in {"uniform", "softmax"}:
            raise UserError(f"unknown weighting '{weighting}'", fix="Use uniform or softmax")
        if nearest < 1:
            raise UserError(f"the mean of {nearest} spots is nothing", fix="Give nearest=1 or more")
        kept = ~np.isin(self._sample, list(without))  # (m,)
        expert, _ = self._model.nearest(features)  # (n,)
        out = np.empty((len(features), len(columns)), dtype=np.float32)
        for mine, spots in self._by_measured(np.array(columns), kept):
            wanted = [columns[i] for i in mine]
            how = {"nearest": nearest, "weighting": weighting}
            out[:, mine] = self._averaged(features, expert, wanted, spots, **how)  # type: ignore[arg-type]
        return out

    def _by_measured(
        self, columns: np.ndarray, kept: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Genes by the spots that measure them: places among the genes, and rows of the spots.

        Raises:
            DataError: When no spot is left for some gene.
        """
        found: dict[bytes, tuple[list[int], np.ndarray]] = {}
        for i, column in enumerate(columns.tolist()):
            lacks = [number for number, genes in enumerate(self._lacking) if column in genes]
            spots = np.flatnonzero(kept & ~np.isin(self._group, lacks))
            if not len(spots):
                raise DataError(f"no training spots are left to predict {self.genes[column]} from")
            found.setdefault(spots.tobytes(), ([], spots))[0].append(i)
        return [(np.array(places), spots) for places, spots in found.values()]

    def _averaged(
        self,
        features: Any,
        expert: np.ndarray,
        columns: list[int],
        allowed: np.ndarray,
        *,
        nearest: int,
        weighting: str,
    ) -> Floats:
        """Mean expression of some genes over the nearest of some spots, (n, len(columns))."""
        targets = self._expression[allowed][:, columns].toarray()  # (a, len(columns))
        rows = torch.from_numpy(allowed)
        out = np.empty((len(features), len(columns)), dtype=np.float32)
        for e in np.unique(expert).tolist():
            spots = self._embedded(e)[rows]  # (a, P)
            mine = np.flatnonzero(expert == e)
            for start in range(0, len(mine), _QUERIES):
                block = mine[start : start + _QUERIES]
                query = self._unit(self._model.encode(_rows(features, block), expert=e))  # (q, P)
                with exact_float32(query.device):
                    scores = query @ spots.T  # (q, a)
                cosine, index = scores.topk(min(nearest, len(allowed)), dim=1)  # (q, k)
                if weighting == "softmax":
                    weight = torch.softmax(cosine / _TEMPERATURE, dim=1)  # (q, k)
                else:
                    weight = torch.full_like(cosine, 1.0 / cosine.shape[1])  # (q, k)
                found = targets[index.cpu().numpy()]  # (q, k, len(columns))
                out[block] = np.einsum("qk,qkg->qg", weight.cpu().numpy(), found)
        return out

    def _columns(self, genes: Sequence[str]) -> list[int]:
        place = {gene: i for i, gene in enumerate(self.genes)}
        check_in_panel(genes, self.genes)
        return [place[gene] for gene in genes]

    def _embedded(self, expert: int) -> torch.Tensor:
        """All spots as an expert's gene head sees them, of unit length, (m, P); made once."""
        if expert not in self._spots:
            blocks = [
                self._unit(
                    self._model.encode_expression(
                        self._expression[start : start + _EMBEDDED], self.genes, expert
                    )
                )
                for start in range(0, self.searched, _EMBEDDED)
            ]
            self._spots[expert] = torch.cat(blocks)
        return self._spots[expert]

    def _unit(self, embedded: Any) -> torch.Tensor:
        return functional.normalize(torch.as_tensor(embedded, device=self._model.device), dim=1)


def _lacking(model: SpadeModel, sample: np.ndarray) -> tuple[list[set[int]], np.ndarray]:
    """Panel columns that each set of measured genes lacks, and the set of each spot, (m,)."""
    extra = model.info.extra
    if "lacking" not in extra:
        return [], np.zeros(len(sample), dtype=np.int64)
    groups = np.array([extra["panel_group"][name] for name in sample.tolist()], dtype=np.int64)
    return [set(columns) for columns in extra["lacking"]], groups


def training_spots(model: SpadeModel, source: Path) -> TrainingSpots:
    """Read the spots that a model was trained on.

    Args:
        model: The model.
        source: A `spots.h5ad` that pretraining left, a folder that holds one, or a folder in
            HEST-1k layout with the sections.

    Raises:
        DataError: When there are no such spots, or they are not those of the model.
    """
    prepared = source / "spots.h5ad" if source.is_dir() else source
    if prepared.is_file():
        return _from_prepared(model, prepared)
    if (source / "st").is_dir():
        return _from_hest(model, source)
    raise DataError(
        "no training spots are here: neither spots.h5ad nor a folder st/ of sections",
        where=str(source),
        fix="Name the folder that `spade-bench pretrain` wrote, or the HEST folder it was given",
    )


def _from_prepared(model: SpadeModel, path: Path) -> TrainingSpots:
    spots = Spots(path)
    try:
        split, genes = spots.obs["split"].astype(str).to_numpy(), spots.genes
        sample = spots.obs["sample"].astype(str).to_numpy()
        # Whole sections, blocks that training held out among them: to be searched is not to train,
        # and a section is never predicted from itself.
        rows = np.flatnonzero(np.isin(sample, np.unique(sample[split == "train"])))
        names = sample[rows].tolist()
        expression = spots.expression[rows]
        known = spots.obs[["sample", "patient"]].drop_duplicates().dropna().astype(str)
    except BROKEN_FILE as error:
        raise DataError(
            f"not the spots that pretraining leaves ({type(error).__name__}: {error})",
            where=str(path),
        ) from error
    if genes != model.genes or set(names) != set(model.info.samples):
        raise DataError(
            "these are not the spots that the model was trained on",
            where=str(path),
            fix="Take the spots.h5ad that lies in the model's own folder",
        )
    pairs = zip(known["sample"], known["patient"], strict=True)
    return TrainingSpots(expression, names, {name: patient for name, patient in pairs if patient})


def _from_hest(model: SpadeModel, folder: Path) -> TrainingSpots:
    samples = {sample.sample_id: sample for sample in read_hest(folder)}
    absent = [name for name in model.info.samples if name not in samples]
    if absent or not model.info.samples:
        what = f"section '{absent[0]}'" if absent else "any section that the model names"
        raise DataError(
            f"lacks {what}, on which the model was trained",
            where=str(folder),
            fix="Name the HEST folder that pretraining was given",
        )
    parts: list[sp.csr_matrix] = []
    names: list[str] = []
    for name in console.track(
        model.info.samples, "reading sections", len(model.info.samples), "sections"
    ):
        data = read_expression(samples[name])
        partial = "lacking" in model.info.extra
        matrix = panel_matrix(
            data, model.genes, model.info.expression, partial=partial
        )  # (spots, G)
        counted = np.flatnonzero(np.diff(data.values.indptr) > 0)  # training left the others out
        parts.append(matrix[counted])
        names += [name] * len(counted)
    patients = {name: sample.patient for name, sample in samples.items() if sample.patient}
    return TrainingSpots(sp.csr_matrix(sp.vstack(parts)), names, patients)


def _rows(features: Any, rows: np.ndarray) -> Floats:
    return np.asarray(np.asarray(features)[rows], dtype=np.float32)
