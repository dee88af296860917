"""Pretraining from paired data to a SPADE folder: prepare, cluster, train, control, validate."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spade_bench import console
from spade_bench.config import merge, nested
from spade_bench.device import resolve_device, setup_numerics
from spade_bench.encoders.common.outfolder import begun, hold, store_settings
from spade_bench.encoders.spade.centroids import Experts
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.modelfolder import MODEL_FILES, ModelInfo
from spade_bench.encoders.spade.preparedspots import Spots, columns_digest
from spade_bench.encoders.spade.pretraining.beside import training_beside
from spade_bench.encoders.spade.pretraining.clustering import fit_experts, space_points
from spade_bench.encoders.spade.pretraining.elbow import scan_k
from spade_bench.encoders.spade.pretraining.expertunits import spread_experts, training_data
from spade_bench.encoders.spade.pretraining.prepare.basefeatures import BaseEncoder
from spade_bench.encoders.spade.pretraining.prepare.preparation import PreparedSpots, prepare
from spade_bench.encoders.spade.pretraining.prepare.provenance import plain_config
from spade_bench.encoders.spade.pretraining.prepare.stages import Stages
from spade_bench.encoders.spade.pretraining.pretrainconfig import (
    PretrainConfig,
    TrainingConfig,
    settled,
)
from spade_bench.encoders.spade.pretraining.pretrainrequest import resolve_request
from spade_bench.encoders.spade.pretraining.settingrules import (
    Rule,
    choose_clusters,
    choose_tau,
    choose_training,
    rising_experts,
    single_training,
    small_experts,
    training_key,
)
from spade_bench.encoders.spade.pretraining.training import TrainingData, TrainResult, train_experts
from spade_bench.encoders.spade.pretraining.validation import validate
from spade_bench.encoders.spade.pretraining.validation.validationtables import verdict
from spade_bench.executors import ExecutorSettings, executor_settings
from spade_bench.files import atomic_path, hash_file, hash_obj, read_json

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["pretrain", "run_pretrain"]

_LAYOUT = ("layout", "workers")  # how training is spread; the weights do not depend on it
# What settings that older versions did not know would have had to say.
_EARLIER = {
    "split.validation": "samples",
    "split.test_fraction": 0.0,
    "training.init": "none",
}
_IDLE = ("training.min_steps", "routing.entropy")  # matter to `auto` alone, which is beside them


def pretrain(
    *,
    workers: int = 0,
    experts: Sequence[int] | None = None,
    scan: bool = False,
    overwrite: bool = False,
    executor: Any = None,
    **given: Any,
) -> Path:
    """Do what `spade-bench pretrain` does; the same call again continues.

    Args:
        workers: Readers of the feature extraction; 0 picks by machine.
        experts: Train only these.
        scan: Also write the elbow curves of both clustering steps.
        overwrite: Replace a model of other settings or data that the output folder holds.
        executor: Where the experts train; see `spade_bench.executors.executor_settings`.
        **given: What `pretrainrequest.resolve_request` takes: data, encoder, settings, output.

    Returns:
        The folder of the model; `SpadeModel.load` and the encoder `spade` take it.

    Raises:
        UserError: Data or settings cannot be used; the message says what to do.
    """
    request = resolve_request(**given)
    return run_pretrain(
        request.config,
        request.out,
        weights=request.weights,
        device=request.device,
        workers=workers,
        experts=experts,
        scan=scan,
        overwrite=overwrite,
        executor=executor_settings(executor),
    )


def run_pretrain(
    config: PretrainConfig,
    out: Path,
    *,
    weights: Path | None = None,
    device: str = "auto",
    workers: int = 0,
    experts: Sequence[int] | None = None,
    scan: bool = False,
    overwrite: bool = False,
    executor: ExecutorSettings | None = None,
) -> Path:
    """Pretrains SPADE; the same call continues after it was stopped at any moment.

    A finished model is left alone when its files are whole; a damaged part is made again.

    Args:
        config: All settings.
        out: Output folder: the SPADE files, `spots.h5ad`, `samples.csv`, `controls/k1`.
        weights: Weights of the base encoder, where they are not fetched from its source.
        device: `auto`, `cpu` or `cuda[:n]`.
        workers: Readers of the feature extraction; 0 picks by machine.
        experts: Train only these; controls and validation then wait for the others.
        scan: Also write the elbow curves of both clustering steps.
        overwrite: Replace a model of other settings or data that `out` holds.
        executor: Where the experts train; None trains them in this process.

    Returns:
        `out`.

    Raises:
        UserError: Data or settings cannot be used; the message says what to do.
    """
    out = Path(out)
    setup_numerics(resolve_device(device))
    base = BaseEncoder(
        config.encoder,
        weights,
        device,
        workers=workers,
        patch_px=config.samples.patch_px,
        mpp=config.samples.mpp,
    )
    with hold(out):
        keep = begun(out, "spade.json") and not overwrite
        _store_config(config, out, keep)
        prepared = prepare(config, out, base, keep=keep)
        run = _Run(config, out, device, prepared, base.revision, keep, executor=executor)
        run.all(scan, experts)
        _say_refused(prepared.refused, out)
    return out


@dataclass
class _Run:
    config: PretrainConfig
    out: Path
    device: str
    prepared: PreparedSpots
    revision: str
    keep: bool = False
    notes: tuple[str, ...] = ()
    single: TrainingConfig | None = None  # settings of the single expert, once they are settled
    executor: ExecutorSettings | None = None

    def __post_init__(self) -> None:
        self.rules = self.prepared.rules
        self.stages = Stages(self.out / "prepare" / "stages", self.keep)
        self.stages.key = self.prepared.key

    def all(self, scan: bool, experts: Sequence[int] | None) -> None:
        """Clusters, trains, controls and validates."""
        spots, centroids = self.cluster(scan)
        self.settle(spots, centroids)
        single = self.control(spots, centroids) if self.config.training.init == "k1" else None
        with self.control_beside(spots, centroids, experts):
            model = self.train(spots, centroids, single, experts)
        if model.n_experts > len(model.heads):
            left = sorted(set(range(model.n_experts)) - set(model.heads))
            console.say(
                f"experts {', '.join(map(str, left))} are not trained yet: run again without "
                "--experts for them, the K = 1 control and the validation"
            )
            return
        control = single or self.control(spots, centroids)
        self.validate(model, control, spots)

    def cluster(self, scan: bool) -> tuple[Spots, Experts]:
        """Fits the experts on training spots and writes them into `spots.h5ad`."""
        spots, target = self.prepared.spots, self.out / "prepare" / "experts.npz"
        obs = spots.obs
        train = (obs["split"] == "train").to_numpy()
        settings, rules = choose_clusters(
            self.config.clustering, obs.loc[train, "organ"].astype(str).to_numpy()
        )
        self._chosen(rules)
        self.config = replace(self.config, clustering=settings)
        expression = None if settings.space == "image" else spots.expression
        if scan:
            rows = np.flatnonzero(train)
            points, places = space_points(
                spots.features, expression, rows, settings.space, self.config.seed
            )
            organs = obs["organ"].astype(str).to_list()
            organs = [organs[row] for row in rows]
            scan_k(points, organs, self.out, config=settings, seed=self.config.seed, rows=places)

        def work() -> dict[str, Any]:
            fitted, assigned = fit_experts(
                spots.features,
                obs["organ"].to_numpy(),
                settings,
                seed=self.config.seed,
                train=train,
                expression=expression,
            )
            spots.with_experts(assigned.cluster, assigned.expert)
            _save_experts(target, fitted)
            sizes = np.bincount(assigned.expert[train], minlength=fitted.n_experts)
            summary = (
                f"{len(fitted.centroids)} centroids in {obs['organ'].nunique()} organs, "
                f"{fitted.n_experts} experts of {sizes.min():,} to {sizes.max():,} training spots"
            )
            return {"said": summary}

        settings_key = {**asdict(settings), "seed": self.config.seed}
        outputs = {target: hash_file, spots.path: columns_digest("cluster", "expert")}
        self.stages.run("clustering", settings_key, work, outputs=outputs)
        return Spots(spots.path), _load_experts(target)

    def settle(self, spots: Spots, centroids: Experts) -> None:
        """Settles what is left to rules, by the sizes of the experts, and says it."""
        config, obs = self.config, spots.obs
        rows = np.flatnonzero(obs["split"] == "train")
        sizes = np.bincount(obs["expert"].to_numpy()[rows], minlength=centroids.n_experts)
        training, rules = choose_training(config.training, sizes, control=config.controls.k1)
        self.single = single_training(config.training, training, sizes)
        routing, tau = choose_tau(config.routing, centroids, spots.features, rows, seed=config.seed)
        self._chosen((*rules, *tau))
        if warning := small_experts(sizes):
            console.warn(warning)
            self.notes += (warning,)
        self.config = replace(config, training=training, routing=routing)

    def train(
        self,
        spots: Spots,
        centroids: Experts,
        single: SpadeModel | None,
        experts: Sequence[int] | None,
    ) -> SpadeModel:
        """Trains the experts and writes the SPADE folder, unless that was done.

        Args:
            spots: The prepared spots.
            centroids: The experts' centroids.
            single: The single-expert model whose heads every expert starts from.
            experts: Train only these.
        """
        data = training_data(spots, spots.obs["expert"].to_numpy(), centroids.n_experts)
        return self._model(
            "model",
            self.out,
            data=data,
            centroids=centroids,
            spots=spots,
            notes=(*self.prepared.notes, *self.notes),
            experts=experts,
            training=self.config.training,
            initial=None if single is None else single.heads[0],
        )

    def control(self, spots: Spots, centroids: Experts) -> SpadeModel | None:
        """Trains the single expert on the same split into `controls/k1`; None where K is 1."""
        if not self.config.controls.k1:
            return None
        if centroids.n_experts == 1:
            console.say("K is 1: the model is its own single-expert control")
            return None
        console.say("K = 1 control: one expert on all training spots")
        single = replace(
            centroids, centroid_expert=np.zeros_like(centroids.centroid_expert), n_experts=1
        )
        data = training_data(spots, np.zeros(len(spots), dtype=np.int64), 1)
        folder, note = self.control_folder, "the K = 1 control of its parent"
        assert self.single is not None  # settled
        return self._model(
            "control-k1",
            folder,
            data=data,
            centroids=single,
            spots=spots,
            notes=(note,),
            experts=None,
            training=self.single,
        )

    @property
    def control_folder(self) -> Path:
        """Where the single expert is written."""
        return self.out / "controls" / "k1"

    @contextlib.contextmanager
    def control_beside(
        self, spots: Spots, centroids: Experts, experts: Sequence[int] | None
    ) -> Iterator[None]:
        """Train the single expert beside the others where a GPU has room for both.

        It takes as many steps as all of them, each of which leaves most of the GPU idle. It ends
        with checkpoints of its own, of which :meth:`control` then makes the model.
        """
        wanted = self.config.controls.k1 and centroids.n_experts > 1 and experts is None
        first = self.config.training.init == "k1" or (self.control_folder / "spade.json").is_file()
        if not wanted or first or resolve_device(self.device).type != "cuda":
            yield
            return
        data = training_data(spots, np.zeros(len(spots), dtype=np.int64), 1)
        seed, device, settings = self.config.seed, self.device, self.single
        assert settings is not None  # settled

        def train(stop: threading.Event) -> None:
            train_experts(data, settings, self.control_folder, seed=seed, device=device, stop=stop)

        console.say("The K = 1 control trains beside the experts")
        with console.progress("experts and control", total=1, unit="pairs") as bar:
            with training_beside(train):
                yield
            bar.advance()

    def validate(self, model: SpadeModel, control: SpadeModel | None, spots: Spots) -> None:
        """Scores held-out samples into `validation.json`, unless that was done for this model."""
        seeds, seed = self.config.controls.untrained_seeds, self.config.seed
        files = [self.out / "spade.json"]
        if control is not None:
            files.append(self.control_folder / "spade.json")
        settings = {"models": [hash_file(f) for f in files], "untrained": seeds, "seed": seed}

        def work() -> dict[str, Any]:
            validate(
                model,
                spots,
                k1_model=control,
                out=self.out,
                blocks=self.prepared.blocks,
                untrained_seeds=seeds,
                seed=seed,
                batch_size=self.config.training.batch_size,
            )
            return {"said": "written to validation.json"}

        outputs = {self.out / "validation.json": hash_file}
        self.stages.run("validation", settings, work, outputs=outputs)
        console.paragraph(verdict(read_json(self.out / "validation.json")))

    def _model(
        self,
        stage: str,
        folder: Path,
        *,
        data: TrainingData,
        centroids: Experts,
        spots: Spots,
        notes: Sequence[str],
        experts: Sequence[int] | None,
        training: TrainingConfig,
        initial: Mapping[str, Tensor] | None = None,
    ) -> SpadeModel:
        """Trains and writes a model once; one that is whole and of the same settings stays.

        Training that does not cover all experts is no finished stage: it continues next time.
        """
        # Heads to start from are those of the stage before, whose key is part of this one's.
        settings = {
            "training": training_key(training),
            "seed": self.config.seed,
            "experts": centroids.n_experts,
        }
        outputs = dict.fromkeys((folder / name for name in MODEL_FILES), hash_file)
        made: list[SpadeModel] = []

        def work() -> dict[str, Any]:
            arithmetic: str | None = None
            if self.executor is not None and data.n_experts > 1:
                arithmetic = spread_experts(
                    data,
                    training,
                    folder,
                    self.executor,
                    experts=experts,
                    seed=self.config.seed,
                    device=self.device,
                    initial=initial is not None,
                )
            result = train_experts(
                data,
                training,
                folder,
                experts=experts,
                seed=self.config.seed,
                device=self.device,
                initial=initial,
                arithmetic=arithmetic,
            )
            info = self._info(spots, training, (*notes, *_found(result)))
            model = SpadeModel(info, centroids, spots.genes, result.weights, device=self.device)
            model.save(folder, result.history)
            made.append(model)
            if made[0].n_experts > len(made[0].heads):
                raise _UnfinishedError
            return {"said": f"written to {folder}"}

        before = self.stages.key
        try:
            self.stages.run(stage, settings, work, outputs=outputs)
        except _UnfinishedError:
            self.stages.key = before
        return made[0] if made else SpadeModel.load(folder, device=self.device)

    def _chosen(self, rules: Sequence[Rule]) -> None:
        """Says what rules have settled, and keeps it for the model's description."""
        for rule in rules:
            console.say(str(rule))
        self.rules += tuple(rules)

    def _info(self, spots: Spots, training: TrainingConfig, notes: Sequence[str]) -> ModelInfo:
        config, split = replace(self.config, training=training), self.prepared.split
        simulated = bool(spots.provenance["simulated"])
        train = spots.obs[spots.obs["split"] == "train"]
        known: tuple[str, ...] | None = None
        others = config.samples.manifest or config.samples.spaceranger or config.samples.xenium
        samples = [r.sample for r in self.prepared.records]
        if simulated:
            known = ()
        elif config.samples.hest is not None and not others:
            known = ("HEST-1k",)
        return ModelInfo(
            base_encoder=config.encoder,
            base_revision=self.revision,
            temperature=config.training.temperature,
            tau=settled(config.routing.tau, "routing.tau"),
            seed=config.seed,
            expression=config.expression,
            config=plain_config(config),
            samples=tuple(s for s, where in split.items() if where == "train"),
            patients=tuple(sorted(str(p) for p in train["patient"].dropna().unique())),
            pretrained_on=known,
            simulated=simulated,
            notes=tuple(dict.fromkeys(notes)),
            extra={
                "split": dict(split),
                "spots": spots.provenance["samples"],
                "validation": "blocks" if self.prepared.blocks else "samples",
                "by_rule": {rule.name: rule.reason for rule in self.rules},
                "technologies": {s.sample_id: s.technology for s in samples if s.technology},
                **_measured(spots),
            },
        )


def _found(result: TrainResult) -> tuple[str, ...]:
    """What a reader must know of a training; says what was not said on the way."""
    if warning := rising_experts(result.history):
        console.warn(warning)
    return (*result.notes, warning) if warning else result.notes


def _say_refused(refused: Mapping[str, str], out: Path) -> None:
    """Say at the end, where it is seen, how many sections are not in the model."""
    if not refused:
        return
    names = ", ".join(sorted(refused)[:5]) + (" and more" if len(refused) > 5 else "")
    console.warn(
        f"{len(refused)} section(s) were refused and are not in the model: {names}; "
        f"{out / 'samples.csv'} says why"
    )


class _UnfinishedError(Exception):
    """Training was asked for some experts only."""


def _measured(spots: Spots) -> dict[str, Any]:
    """What a model says of a panel that not all its samples measure; empty where they do.

    `lacking` lists, for each set of measured genes, the panel columns outside it; `panel_group`
    gives the set of each sample.
    """
    if spots.measured is None or spots.panel_group is None:
        return {}
    sample = spots.obs["sample"]
    names = list(sample.cat.categories)
    group = dict(zip(sample.astype(str), spots.panel_group.tolist(), strict=True))
    first = {number: names.index(name) for name, number in reversed(group.items())}
    lacking = [np.flatnonzero(~spots.measured[:, first[g]]).tolist() for g in sorted(first)]
    return {"lacking": lacking, "panel_group": group}


def _save_experts(path: Path, experts: Experts) -> None:
    with atomic_path(path) as temporary:
        np.savez(
            temporary,
            centroids=experts.centroids,
            centroid_expert=experts.centroid_expert,
            centroid_organ=np.array(experts.centroid_organ, dtype=str),
            n_experts=np.array(experts.n_experts),
        )


def _load_experts(path: Path) -> Experts:
    with np.load(path, allow_pickle=False) as saved:
        return Experts(
            saved["centroids"],
            saved["centroid_expert"],
            tuple(saved["centroid_organ"].tolist()),
            int(saved["n_experts"]),
        )


def _store_config(config: PretrainConfig, out: Path, keep: bool) -> None:
    """Prints, hashes and stores the resolved settings, unless a model of others is to be kept."""
    plain = plain_config(config)
    ignored = [f"training.{name}" for name in _LAYOUT]
    defaults = merge(plain_config(PretrainConfig()), nested(_EARLIER))
    store_settings(out, plain, keep=keep, ignored=[*ignored, *_IDLE], defaults=defaults)
    flat = []
    for key, value in plain.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        flat += [f"{key}.{k}={v}" if k else f"{key}={v}" for k, v in inner if v not in (None, [])]
    console.say(f"config {hash_obj(plain)}: {' '.join(flat)}")
