"""The preparation as a whole: samples, panel, features, align, split -> `spots.h5ad`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spade_bench import console
from spade_bench.encoders.spade.preparedspots import (
    Spots,
    columns_digest,
    content_digest,
)
from spade_bench.encoders.spade.pretraining.prepare import gather as collect
from spade_bench.encoders.spade.pretraining.prepare.align import Part, align_sample
from spade_bench.encoders.spade.pretraining.prepare.basefeatures import (
    BaseEncoder,
    collect_features,
)
from spade_bench.encoders.spade.pretraining.prepare.gather import Record
from spade_bench.encoders.spade.pretraining.prepare.panel import (
    Panel,
    make_panel,
    measured_genes,
    unite_panel,
)
from spade_bench.encoders.spade.pretraining.prepare.provenance import provenance, write_table
from spade_bench.encoders.spade.pretraining.prepare.sampleworkers import work_ahead
from spade_bench.encoders.spade.pretraining.prepare.spatialblocks import section_blocks
from spade_bench.encoders.spade.pretraining.prepare.split import (
    Member,
    patient_groups,
    split_samples,
)
from spade_bench.encoders.spade.pretraining.prepare.stages import Stages
from spade_bench.encoders.spade.pretraining.prepare.writer import write_spots
from spade_bench.encoders.spade.pretraining.pretrainconfig import PretrainConfig, SplitConfig
from spade_bench.encoders.spade.pretraining.settingrules import Rule, choose_split, split_key
from spade_bench.errors import DataError
from spade_bench.spatial.findings import Finding

__all__ = ["PreparedSpots", "prepare"]


@dataclass(frozen=True)
class PreparedSpots:
    """What the preparation leaves.

    Attributes:
        spots: The prepared spots.
        records: The samples used, in order.
        split: Sample id -> `train`, `val` or `test`.
        notes: What a reader of results must know.
        key: Hash of everything that determines the spots.
        refused: Sample id -> why it could not be used; those left out by the filter do not count.
        blocks: Whether blocks of the sections are held out, not only whole samples.
        rules: What the size of the cohort decided.
    """

    spots: Spots
    records: tuple[Record, ...]
    split: Mapping[str, str]
    notes: tuple[str, ...]
    key: str
    refused: Mapping[str, str] = field(default_factory=dict)
    blocks: bool = False
    rules: tuple[Rule, ...] = ()


def prepare(
    config: PretrainConfig, out: Path, base: BaseEncoder, *, keep: bool = False
) -> PreparedSpots:
    """Prepares all samples a config names into `OUT/spots.h5ad`, one sample in memory at a time.

    Every stage says what it did; stages and samples done before are not done again, and a
    changed setting redoes its stage and those that follow.

    Args:
        config: All settings.
        out: Output folder; work files go to `OUT/prepare`.
        base: The base encoder and how to run it.
        keep: Refuse to prepare anew what differs from that of an existing model.

    Raises:
        UserError: Nothing usable is left, or settings and data contradict each other.
    """
    return _Preparation(config, out, base, keep).run()


@dataclass
class _Preparation:
    config: PretrainConfig
    out: Path
    base: BaseEncoder
    keep: bool = False
    unwanted: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    findings: dict[str, list[Finding]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = self.out / "prepare"
        self.stages = Stages(self.folder / "stages", self.keep)

    def run(self) -> PreparedSpots:
        """All stages in order."""
        records = self._samples()
        panel, shared, floor = self._panel(records)
        records = self._usable(records)
        features = self._features(records)
        records = self._usable(records)
        records = self._align(records, features, panel, {"shared": shared, "floor": floor})
        split, notes, (settled, rules) = self._split(records)
        rows = {
            r.sample.sample_id: (split[r.sample.sample_id], r.sample, self.used[r.sample.sample_id])
            for r in records
        }
        write_table(
            self.out / "samples.csv", rows, {**self.dropped, **self.unwanted}, self.findings
        )
        return PreparedSpots(
            Spots(self.out / "spots.h5ad"),
            tuple(records),
            split,
            tuple(notes),
            self.stages.key,
            dict(self.dropped),
            settled.validation == "blocks",
            rules,
        )

    def _samples(self) -> list[Record]:
        samples, self.unwanted = collect.gather(self.config.samples, self.config.encoder)
        seen = {s.sample_id: collect.identity(s) for s in samples}
        records: list[Record] = []

        def work() -> dict[str, Any]:
            checked = collect.check_all(
                samples, self.config, self.folder / "checks", workers=self.base.workers
            )
            records.extend(checked)
            collect.report_findings({r.sample.sample_id: r.findings for r in records})
            return {"said": collect.summarise(records, self.unwanted)}

        settings = {
            "seen": seen,
            "unwanted": self.unwanted,
            "expression": self.config.expression,
            "trust": sorted(self.config.samples.trust),
        }
        self.stages.run("samples", settings, work)
        if not records:
            records = collect.check_all(samples, self.config, self.folder / "checks")
        for record in records:
            self._note(record.sample.sample_id, record.findings, record.refusal)
        return self._usable(records)

    def _panel(self, records: Sequence[Record]) -> tuple[list[str], int, int]:
        genes, split = self.config.genes, self.config.split
        held_out = sorted(
            r.sample.sample_id
            for r in records
            if r.sample.sample_id in split.test_samples or r.sample.patient in split.test_patients
        )

        def work() -> dict[str, Any]:
            choose = unite_panel if genes.panel == "union" else make_panel
            made = choose(
                records, genes, self.folder / "genes", held_out, workers=self.base.workers
            )
            for name, reason in made.dropped.items():
                console.warn(f"{name}: dropped: {reason}")
            said = self._panel_said(made, len(records) - len({*made.dropped, *held_out}))
            said += f" ({len(held_out)} test samples have no say)" if held_out else ""
            if made.dropped:
                said += f"; {len(made.dropped)} samples left out by the gene rule"
                said += "" if genes.panel == "union" else " (genes.panel=union keeps them)"
            return {
                "panel": made.genes, "shared": made.shared, "floor": made.floor,
                "dropped": made.dropped, "said": said,
            }  # fmt: skip

        settings = {**asdict(genes), "held_out": held_out}
        if genes.panel == "intersection":  # the only panel of older versions
            del settings["panel"]
        found = self.stages.run("panel", settings, work)
        self.dropped |= found["dropped"]
        return found["panel"], found["shared"], found["floor"]

    def _panel_said(self, made: Panel, n_samples: int) -> str:
        genes = self.config.genes
        said = f"{len(made.genes):,} genes: the {genes.n_top} most variable of each of {n_samples} "
        if genes.panel == "union":
            return said + f"samples united, {made.shared:,} of them measured by all"
        return said + f"samples, of {made.shared:,} genes shared"

    def _features(self, records: Sequence[Record]) -> dict[str, Path]:
        def work() -> dict[str, Any]:
            files, dropped, said = collect_features(records, self.base, self.folder / "features")
            for name, reason in dropped.items():
                console.warn(f"{name}: dropped: {reason}")
            paths = {name: os.path.relpath(path, self.out) for name, path in files.items()}
            return {"files": paths, "dropped": dropped, "said": said}

        older = self.base.old_settings()
        extracted = any(record.sample.features is None for record in records)
        settings = self.base.settings() if extracted else older
        found = self.stages.run("features", settings, work, older=older)
        self.dropped |= found["dropped"]
        return {name: self.out / path for name, path in found["files"].items()}

    def _align(
        self,
        records: Sequence[Record],
        features: Mapping[str, Path],
        panel: Sequence[str],
        genes: Mapping[str, int],
    ) -> list[Record]:
        parts_folder, target = self.folder / "parts", self.out / "spots.h5ad"

        def work() -> dict[str, Any]:
            paths = features
            if not all(paths[r.sample.sample_id].is_file() for r in records):  # cleared since
                paths = collect_features(records, self.base, self.folder / "features")[0]
            parts: list[tuple[Record, Part]] = []
            align = partial(align_sample, partial=self._united)
            mode = self.config.expression
            jobs = [(r, paths[r.sample.sample_id], panel, mode, parts_folder) for r in records]
            work_ahead("aligning expression", align, jobs, self.base.workers)
            with console.progress("aligning expression", len(records), "samples") as bar:
                for record, job in zip(records, jobs, strict=True):
                    parts.append((record, align(*job)))
                    bar.advance(note=record.sample.sample_id)
            found = {r.sample.sample_id: p.findings for r, p in parts}
            collect.report_findings(found)
            used = [(r, p) for r, p in parts if not any(f.fatal for f in p.findings)]
            _same_width(used)
            for name, findings in found.items():
                self._note(name, findings, "; ".join(f.text for f in findings if f.fatal))
            for stale in self.out.glob(".spots.*.tmp.h5ad"):  # a killed run's, perhaps gigabytes
                stale.unlink()
            measured = measured_genes([r for r, _ in used], panel) if self._united else None
            told = self._provenance(used, panel, genes)
            write_spots(target, used, panel, told, measured=measured)
            shutil.rmtree(parts_folder)
            n, nnz = sum(p.n_spots for _, p in used), sum(p.nnz for _, p in used)
            said = (
                f"{n:,} spots x {len(panel):,} genes ({nnz / (n * len(panel)):.0%} stored) with "
                f"{used[0][1].dim} features from {len(used)} samples, {self.config.expression}"
            )
            spots = {r.sample.sample_id: p.n_spots for r, p in used}
            listed = {name: [f.to_dict() for f in fs] for name, fs in found.items()}
            return {"spots": spots, "findings": listed, "said": said}

        found = self.stages.run(
            "align", {"expression": self.config.expression}, work, outputs={target: content_digest}
        )
        for name, listed in found["findings"].items():
            findings = [Finding.from_dict(f) for f in listed]
            self._note(name, findings, "; ".join(f.text for f in findings if f.fatal))
        self.used = found["spots"]
        return [r for r in records if r.sample.sample_id in self.used]

    def _split(
        self, records: Sequence[Record]
    ) -> tuple[dict[str, str], list[str], tuple[SplitConfig, tuple[Rule, ...]]]:
        target = self.out / "spots.h5ad"
        samples = [r.sample for r in records]
        members = [Member(s.sample_id, s.organ, s.patient, s.technology) for s in samples]
        groups = patient_groups(members, self.config.split)
        settled, rules = choose_split(self.config.split, groups, max(self.used.values()))
        for rule in rules:
            console.say(str(rule))

        def work() -> dict[str, Any]:
            result = split_samples(members, settled, self.config.seed)
            spots = Spots(target).with_split(result.split)
            if settled.validation == "blocks":
                spots = spots.with_spot_split(self._blocks(spots, records, settled))
            for note in result.notes:
                console.warn(note)
            said = _sizes(spots)
            return {"split": dict(result.split), "notes": list(result.notes), "said": said}

        settings = {**split_key(settled), "seed": self.config.seed}
        outputs = {target: columns_digest("split")}
        found = self.stages.run("split", settings, work, outputs=outputs)
        return found["split"], found["notes"], (settled, rules)

    def _blocks(self, spots: Spots, records: Sequence[Record], split: SplitConfig) -> np.ndarray:
        """The split of each spot (N,), with blocks of every training section held out."""
        obs, samples = spots.obs, self.config.samples
        out = obs["split"].astype(str).to_numpy().astype("<U5")
        for record in records:
            sample = record.sample
            rows = np.flatnonzero((obs["sample"] == sample.sample_id) & (out == "train"))
            pixel = sample.pixel_size_um
            out[rows] = section_blocks(
                np.asarray(spots.spatial[rows], dtype=np.float64),
                val=split.val_fraction,
                test=0.0 if split.test_fraction == "auto" else split.test_fraction,
                patch_side=samples.patch_px * samples.mpp / pixel if pixel else 0.0,
                seed=self.config.seed,
                name=sample.sample_id,
            )
        return out

    @property
    def _united(self) -> bool:
        """Whether samples may lack genes of the panel."""
        return self.config.genes.panel == "union"

    def _usable(self, records: Sequence[Record]) -> list[Record]:
        """The records not dropped so far.

        Raises:
            DataError: When none is left.
        """
        left = [r for r in records if r.sample.sample_id not in self.dropped]
        if not left:
            first = next(iter(self.dropped.items()))
            raise DataError(
                f"none of {len(self.dropped)} samples can be used; {first[0]}: {first[1]}",
                fix="correct the data; see the warnings above",
            )
        return left

    def _note(self, name: str, findings: Sequence[Finding], refusal: str) -> None:
        mine = self.findings.setdefault(name, [])
        mine.extend(f for f in findings if f not in mine)
        if refusal:
            self.dropped[name] = refusal

    def _provenance(
        self, used: Sequence[tuple[Record, Part]], panel: Sequence[str], genes: Mapping[str, int]
    ) -> dict[str, Any]:
        return provenance(
            self.config,
            self.base,
            {r.sample.sample_id: p.n_spots for r, p in used},
            {"panel": len(panel), "n_top": self.config.genes.n_top, **genes},
            {**self.unwanted, **self.dropped},
            findings=self.findings,
            simulated=any(bool(r.sample.metadata.get("simulated")) for r, _ in used),
        )


def _sizes(spots: Spots) -> str:
    """One sentence: samples and spots of each part."""
    obs = spots.obs
    parts = []
    for name in ("train", "val", "test"):
        inside = obs[obs["split"] == name]
        parts.append(f"{name} {inside['sample'].nunique()} samples / {len(inside):,} spots")
    guard = int(obs["split"].isna().sum())
    unused = f"; {guard:,} spots beside held-out ones are unused" if guard else ""
    return ", ".join(parts) + unused


def _same_width(used: Sequence[tuple[Record, Part]]) -> None:
    """Refuses nothing at all, and features of two widths."""
    if not used:
        raise DataError("no sample has spots with features and expression", fix="see the warnings")
    widths = {p.dim: r.sample.sample_id for r, p in used}
    if len(widths) > 1:
        raise DataError(
            "features of different widths: "
            + ", ".join(f"{name} {dim}" for dim, name in widths.items()),
            fix="use features of one encoder",
        )
