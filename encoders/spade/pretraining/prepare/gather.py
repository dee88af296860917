"""First stage: which samples there are, which pass the checks, and why the others do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from spade_bench import console
from spade_bench.cohorts.published.hestbench import HEST, hest_folder, read_sections
from spade_bench.encoders.spade.pretraining.prepare.sampleworkers import work_ahead
from spade_bench.encoders.spade.pretraining.pretrainconfig import PretrainConfig, SamplesConfig
from spade_bench.errors import BROKEN_FILE, ConfigError, DataError
from spade_bench.files import atomic_path, hash_obj, remember, remembered
from spade_bench.spatial import Pooling, StSample, read_hest, read_manifest, read_section
from spade_bench.spatial.findings import Finding
from spade_bench.spatial.instruments.technologies import pooled_files, recognise
from spade_bench.spatial.samplechoice import check_trusted, filter_samples
from spade_bench.spatial.sectionchecks import (
    DuplicateFinder,
    FindingsReport,
    check_section,
    overrule,
    refusal,
    spot_prints,
)

__all__ = ["Record", "check_all", "gather", "identity", "listed", "report_findings", "summarise",
           "without_tasks"]  # fmt: skip

_LATER = ("visium_hd", "xenium", "pooling", "alignment")
_READER = 4  # raise when sections are read differently, so that older records are not reused


@dataclass(frozen=True)
class Record:
    """What is known about a sample after its checks.

    Attributes:
        sample: The sample.
        n_spots: Spots in its expression file.
        n_genes: Genes in it.
        kind: What its values are.
        image_size: (width, height) in px, where there is an image.
        findings: What the checks found.
        identity: Hash of its files' sizes and times and its metadata.
        genes_file: Text file of its gene names; None where it could not be read.
    """

    sample: StSample
    n_spots: int
    n_genes: int
    kind: str
    image_size: tuple[int, int] | None
    findings: tuple[Finding, ...]
    identity: str
    genes_file: Path | None = None

    @property
    def refusal(self) -> str:
        """Why the sample cannot be used; empty when it can."""
        return refusal(self.findings)

    def genes(self) -> list[str]:
        """Gene names in the order of the expression file."""
        if self.genes_file is None:
            raise DataError("no gene names", where=self.sample.sample_id)
        return self.genes_file.read_text(encoding="utf-8").split("\n")


def listed(config: SamplesConfig) -> list[StSample]:
    """List the samples of all sources, whether they are wanted or not.

    Raises:
        DataError: As the readers.
    """
    samples: list[StSample] = []
    if config.hest is not None:
        samples += read_hest(config.hest)
    if config.manifest is not None:
        samples += read_manifest(config.manifest)
    samples += [_section(folder, "spaceranger", config) for folder in config.spaceranger]
    samples += [_section(folder, "xenium", config) for folder in config.xenium]
    return samples


def without_tasks(config: SamplesConfig, tasks: Sequence[str]) -> SamplesConfig:
    """Leave out the sections of tasks, and every other section of their patients.

    Patients of one name are the same where the title of their data set is the same too, because
    every study has a `Patient 1`.

    Args:
        config: Sources and filter.
        tasks: Tasks of expression, as `hest:PATH`.

    Returns:
        The filter with these samples among `exclude_ids`.

    Raises:
        DataError: When there is no such task, or it holds all samples.
        ConfigError: When a name is no task of expression.
    """
    samples = listed(config)
    out: set[str] = set()
    for task in tasks:
        if not task.startswith(HEST):
            raise ConfigError(
                f"'{task}' is no task of expression",
                where="--exclude-task",
                fix="Write hest:PATH of a HEST-Bench task folder or of other sections",
            )
        held = {one.sample_id: one for one in read_sections(hest_folder(task)).samples}
        here = [one for one in samples if one.sample_id in held]
        owners = {_owner(one) for one in (*here, *held.values())} - {None}
        gone = {s.sample_id for s in samples if s.sample_id in held or _owner(s) in owners}
        if len(gone) == len(samples):
            raise DataError(
                f"it holds all {len(samples)} samples, or all their patients",
                where=f"--exclude-task {task}",
                fix="Give more samples, or leave out the test sections of one fold at a time with "
                "--set samples.exclude_ids=[ID]",
            )
        more = len(gone - held.keys())
        console.say(
            f"{task}: {len(gone)} sample(s) left out"
            + (f", {more} of them for their patient" if more else "")
        )
        out |= gone
    return replace(config, exclude_ids=tuple(sorted({*config.exclude_ids, *out})))


def _owner(sample: StSample) -> tuple[str, str] | None:
    """Data set and patient of a sample; None where nobody knows the patient."""
    if sample.patient is None:
        return None
    return str(sample.metadata.get("dataset_title", "")).casefold(), sample.patient.casefold()


def gather(config: SamplesConfig, encoder: str) -> tuple[list[StSample], dict[str, str]]:
    """Lists the samples the config names and applies its filter.

    Args:
        config: Sources and filter.
        encoder: Base encoder, whose files are taken from a folder of precomputed features.

    Returns:
        The samples wanted, and the reason for each of the others.

    Raises:
        ConfigError: When no source is given, or nothing is left.
        DataError: As the readers.
    """
    samples = listed(config)
    if not samples:
        raise ConfigError(
            "no paired data given",
            where="samples",
            fix="give --hest DIR, --manifest CSV, --spaceranger DIR or --xenium DIR; `make demo` "
            "simulates some",
        )
    names = [s.sample_id for s in samples]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise DataError(f"sample ids come from two sources: {', '.join(twice[:5])}")
    kept, dropped = filter_samples(
        samples,
        include=config.include,
        exclude=config.exclude,
        min_genes=config.min_genes,
        exclude_ids=config.exclude_ids,
        ids=config.ids,
    )
    if not kept:
        raise ConfigError(f"the filter leaves none of {len(samples)} samples", where="samples")
    check_trusted(config.trust, names, "samples.trust")
    if config.features is not None:
        kept = _with_features(kept, config.features, encoder)
    return kept, dropped


def _section(folder: Path, source: str, config: SamplesConfig) -> StSample:
    """The sample of a folder of Space Ranger or Xenium.

    Raises:
        DataError: When the folder holds a section of the other kind.
    """
    kind = recognise(folder, "xenium" if source == "xenium" else None)
    if kind == "visium":
        return read_section(folder, kind)
    if source == "spaceranger" and kind != "visium-hd":
        raise DataError(f"this is {kind}", where=str(folder), fix=f"Give it as --{kind} DIR")
    pooling = Pooling(config.spot_um, config.spot_grid, config.spot_pitch_um)
    return read_section(folder, kind, pooling=pooling)


def _with_features(samples: Sequence[StSample], folder: Path, encoder: str) -> list[StSample]:
    """Points samples at their file in a folder of precomputed features."""
    from spade_bench.features.bags import find_bags

    broken: list[DataError] = []
    files = find_bags(folder, encoder, unreadable=broken)
    # A file that cannot be read still is its sample's: the sample is dropped for it by name.
    files = {Path(error.where).stem: Path(error.where) for error in broken} | files
    return [replace(s, features=files.get(s.sample_id, s.features)) for s in samples]


def identity(sample: StSample) -> str:
    """Hash of what the sample is made of: metadata, and size and time of its files."""
    fields = asdict(sample)
    for name in _LATER:  # a sample without them keeps the identity that it has always had
        if fields[name] is None:
            del fields[name]
    stamps = {}
    for name in ("visium_hd", "xenium", "alignment"):
        if fields.pop(name, None) is not None:
            stamps["pooled"] = [
                (f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in pooled_files(sample)
            ]
    for name in ("h5ad", "spaceranger", "image", "patches", "features"):
        path = fields.pop(name)
        if path is not None:
            files = sorted(path.rglob("*")) if path.is_dir() else [path]
            stamps[name] = [
                (f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()
            ]
    return hash_obj({"fields": fields, "files": stamps, "reader": _READER})


def check_all(
    samples: Sequence[StSample], config: PretrainConfig, folder: Path, *, workers: int = 1
) -> list[Record]:
    """Checks every sample, one in memory at a time; done samples are not read again.

    Args:
        samples: The samples.
        config: All settings.
        folder: Where what is found of each sample is remembered.
        workers: Processes that check samples ahead; 0 picks by machine.
    """
    jobs = [(sample, config, folder) for sample in samples]
    work_ahead("checking samples", _check_one, jobs, workers)
    records = []
    duplicates = DuplicateFinder()
    with console.progress("checking samples", len(samples), "samples") as bar:
        for sample in samples:
            record, prints = _check_one(sample, config, folder)
            trusted = sample.sample_id in config.samples.trust
            record = _trusted(record) if trusted else record
            found = None if record.refusal else duplicates.add(sample.sample_id, prints)
            if found is not None:
                record = replace(record, findings=(*record.findings, found))
                record = _trusted(record) if trusted else record
            records.append(record)
            bar.advance(note=sample.sample_id)
    return records


def _trusted(record: Record) -> Record:
    return replace(record, findings=overrule(record.findings))


def _check_one(sample: StSample, config: PretrainConfig, folder: Path) -> tuple[Record, np.ndarray]:
    """Checks one sample, or takes what an earlier run found."""
    key = hash_obj({"identity": identity(sample), "expression": config.expression})
    report, genes_file = folder / f"{sample.sample_id}.json", folder / f"{sample.sample_id}.genes"
    prints_file = folder / f"{sample.sample_id}.prints.npy"
    before = _found_before(sample, key, report, genes_file, prints_file)
    if before is not None:
        return before
    checked, data = check_section(sample, raw=config.expression == "raw")
    findings = list(checked.findings)
    if data is None:
        return Record(sample, 0, 0, "", None, checked.findings, key), np.empty(0, dtype=np.uint64)
    prints = spot_prints(data)
    with atomic_path(genes_file) as temporary:
        temporary.write_text("\n".join(data.genes.tolist()), encoding="utf-8")
    with atomic_path(prints_file) as temporary:
        np.save(temporary, prints, allow_pickle=False)
    found = {
        "key": key,
        "n_spots": len(data.barcodes),
        "n_genes": len(data.genes),
        "kind": data.kind,
        "pixel_size_um": checked.sample.pixel_size_um,
        "image_size": checked.image_size,
        "findings": [f.to_dict() for f in findings],
    }
    remember(report, key, found, [genes_file, prints_file])
    return _restore(sample, found, genes_file), prints


def _found_before(
    sample: StSample, key: str, report: Path, genes_file: Path, prints_file: Path
) -> tuple[Record, np.ndarray] | None:
    """What an earlier run found; None when there is nothing, or it is damaged or of other data."""
    found = remembered(report, key, [genes_file, prints_file])
    if found is None:
        return None
    try:
        record = _restore(sample, found, genes_file)
        whole = len(record.genes()) == record.n_genes
        return (record, np.load(prints_file, allow_pickle=False)) if whole else None
    except (DataError, *BROKEN_FILE):
        return None  # checked anew


def _restore(sample: StSample, found: Mapping[str, Any], genes_file: Path) -> Record:
    size = found["image_size"]
    return Record(
        sample=replace(sample, pixel_size_um=found["pixel_size_um"]),
        n_spots=found["n_spots"],
        n_genes=found["n_genes"],
        kind=found["kind"],
        image_size=None if size is None else (int(size[0]), int(size[1])),
        findings=tuple(Finding.from_dict(f) for f in found["findings"]),
        identity=found["key"],
        genes_file=genes_file,
    )


def report_findings(findings: Mapping[str, Sequence[Finding]]) -> None:
    """Says each kind of finding once, with counts and the first samples it concerns."""
    report = FindingsReport()
    for sample_id, found in findings.items():
        report.add(sample_id, found)
    report.close()


def summarise(records: Sequence[Record], unwanted: Mapping[str, str]) -> str:
    """One sentence: how many samples, spots, organs and patients are kept and dropped."""
    kept = [r for r in records if not r.refusal]
    organs = {r.sample.organ for r in kept}
    patients = {r.sample.patient for r in kept if r.sample.patient}
    spots = sum(r.n_spots for r in kept)
    text = (
        f"kept {len(kept)} of {len(records) + len(unwanted)} samples "
        f"({spots:,} spots, {len(organs)} organ(s), {len(patients)} patient(s))"
    )
    if unwanted:
        text += f"; {len(unwanted)} left out by the filter"
    dropped = len(records) - len(kept)
    return text + (f"; {dropped} refused by the checks" if dropped else "")
