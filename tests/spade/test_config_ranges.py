"""Numbers that nothing can be done with are refused by name, before any work."""

from __future__ import annotations

import pytest

from spade_bench.config import build, parse_set
from spade_bench.encoders.spade.pretraining.pretrainconfig import PretrainConfig
from spade_bench.encoders.tangle.pretraining.tangleconfig import TangleConfig
from spade_bench.errors import ConfigError


@pytest.mark.parametrize(
    "setting",
    ["seed=-1", "training.epochs=0", "training.batch_size=1", "training.lr=0", "training.lr=.nan",
     "training.dropout=1", "routing.tau=0", "clustering.k_experts=0", "split.val_fraction=1.5",
     "samples.mpp=-0.5", "genes.n_top=0", "training.temperature=0", "split.test_fraction=1",
     "training.min_steps=0", "routing.entropy=0"],
)  # fmt: skip
def test_settings_of_a_pretraining_out_of_range_are_refused(setting: str) -> None:
    name = setting.split("=", maxsplit=1)[0]
    with pytest.raises(ConfigError, match=rf"'{name}' is .*\. Use "):
        build(PretrainConfig, parse_set([setting]))


@pytest.mark.parametrize(
    "setting",
    ["seed=-1", "genes.n_top=-1", "split.val=0", "split.test=2", "training.epochs=0",
     "training.warmup_epochs=-1", "training.batch_size=1", "training.patches=0", "training.lr=.nan",
     "training.weight_decay=-1", "training.temperature=0", "training.hidden=0",
     "training.attention=0", "training.dropout=0.5"],
)  # fmt: skip
def test_settings_of_tangle_out_of_range_are_refused(setting: str) -> None:
    name = setting.split("=", maxsplit=1)[0]
    with pytest.raises(ConfigError, match=rf"'{name}' is .*\. Use "):
        build(TangleConfig, parse_set([setting]))


def test_shares_that_leave_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(ConfigError, match="nothing is left to train on"):
        build(TangleConfig, {"split": {"val": 0.5, "test": 0.5}})


def test_the_defaults_are_in_range() -> None:
    build(PretrainConfig, {})
    build(TangleConfig, {})


@pytest.mark.parametrize(
    "setting",
    ["clustering.k_experts=many", "training.lr=fast", "training.epochs=2.5", "routing.tau=null"],
)
def test_what_may_be_a_number_or_auto_says_so(setting: str) -> None:
    name = setting.split("=", maxsplit=1)[0]
    with pytest.raises(ConfigError, match=rf"'{name}' is .*\. Use a number or auto"):
        build(PretrainConfig, parse_set([setting]))
