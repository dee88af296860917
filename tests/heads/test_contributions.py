"""What patches add to a prediction: the shares make it up, and belong to their patches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from spade_bench.errors import DataError, UserError
from spade_bench.features.casebags import CaseBags
from spade_bench.heads import FittedHead, HeadInfo, sklearn_head
from spade_bench.registry import heads
from spade_bench.types import HeadCard

NAMES = heads.names()
EXACT = ["abmil", "abmil-cox", "abmil-mse", "logistic", "cox", "ridge"]
SILENT = ["knn", "prototype"]
SAYING = [name for name in NAMES if name not in SILENT]


def fitted_on(name: str, make_head: Any, world: Any) -> FittedHead:
    head = make_head(name, precision="fp64") if "precision" in params_of(name) else make_head(name)
    (one,) = head.fit(world.bags(), world.fits(head, [6]), world.outputs(head))
    return one


def params_of(name: str) -> Any:
    return heads.get(name).card.defaults


def predicted(head: FittedHead, bag: np.ndarray) -> np.ndarray:
    return head.predict(CaseBags(lambda _: bag, 1, bag.shape[1]))[0]


@pytest.fixture(params=[2, 3], ids=["two classes", "three classes"])
def world(request, make_world):
    return make_world(3, n_cases=36, n_classes=request.param)


@pytest.mark.parametrize("name", SAYING)
def test_shares_make_up_the_prediction(name, make_head, world) -> None:
    head = fitted_on(name, make_head, world)
    for case in (0, 7, 11):
        bag = world.bags()[case]
        got = head.contributions(bag)
        assert got.values.shape == (len(bag), head.info.n_outputs)
        assert got.prediction() == pytest.approx(predicted(head, bag), abs=1e-6)
        assert got.method.startswith("exact") == (name in [*EXACT, "abmil-nll"])


@pytest.mark.parametrize("name", SAYING)
def test_shares_follow_their_patches(name, make_head, world) -> None:
    head = fitted_on(name, make_head, world)
    bag = world.bags()[7]
    order = np.random.default_rng(0).permutation(len(bag))
    straight, turned = head.contributions(bag), head.contributions(bag[order])
    assert turned.values == pytest.approx(straight.values[order], abs=1e-6)
    if straight.attention is not None:
        assert turned.attention == pytest.approx(straight.attention[order], abs=1e-6)


@pytest.mark.parametrize("name", ["logistic", "cox"])
def test_a_linear_head_gives_a_patch_what_it_alone_would_say(name, make_head, world) -> None:
    head = fitted_on(name, make_head, world)
    bag = world.bags()[5]
    got = head.contributions(bag)
    assert got.offset == pytest.approx(0)
    for at, patch in enumerate(bag):
        alone = head.contributions(patch[None])
        assert got.values[at] * len(bag) == pytest.approx(alone.values[0])
        assert alone.prediction() == pytest.approx(predicted(head, patch[None]))
    if name == "logistic":
        probabilities = predicted(head, bag)
        difference = got.total[1] - got.total[0]
        both = 2 if len(probabilities) == 2 else 1  # log odds are two logits' difference
        wanted = both * np.log(probabilities[1] / probabilities[0])
        assert difference == pytest.approx(wanted)


@pytest.mark.parametrize("name", ["abmil", "abmil-cox", "abmil-nll"])
def test_attention_times_what_a_patch_alone_puts_out(name, make_head, world) -> None:
    """The sum over patches is the logit minus the bias, and a patch without attention adds none."""
    head = fitted_on(name, make_head, world)
    bag = world.bags()[4]
    got = head.contributions(bag)
    assert got.attention == pytest.approx(head.attention(bag))
    if name == "abmil-nll":
        return
    tensors = head.tensors()
    bias = tensors["out_b"][0] if "out_b" in tensors else np.zeros(1)
    centre = bias.mean() if got.link == "softmax" else 0  # which changes no probability
    assert got.offset == pytest.approx(bias - centre, abs=1e-12)
    for at, patch in enumerate(bag):
        alone = head.contributions(patch[None])  # its attention is 1
        assert got.values[at] == pytest.approx(got.attention[at] * alone.values[0], abs=1e-9)


def test_the_risk_of_discrete_time_is_that_of_the_biases_and_the_patches(make_head, world) -> None:
    """Completeness of integrated gradients; to first order a change of one patch is its share."""
    head = fitted_on("abmil-nll", make_head, world)
    bag = world.bags()[4]
    got = head.contributions(bag)
    hazards = 1 / (1 + np.exp(-head.tensors()["out_b"][0]))
    of_biases = -np.cumprod(1 - hazards).sum()  # minus the expected number of bins survived
    assert got.offset == pytest.approx([of_biases], abs=1e-9)
    assert got.values.sum() == pytest.approx(predicted(head, bag)[0] - of_biases, abs=1e-9)


def test_gradients_are_those_of_finite_differences(make_head, world) -> None:
    head = fitted_on("mean-mlp", make_head, world)
    bag = world.bags()[4].astype(np.float64)
    got = head.contributions(bag)
    tensors = head.tensors()
    zero = tensors["input.reference"] + tensors["input.mean"]

    def logits(x: np.ndarray) -> np.ndarray:
        return np.log(predicted(head, x))

    step = 1e-3  # what float32 features resolve
    for patch in range(2):
        slope = np.zeros((bag.shape[1], head.info.n_outputs))
        for at in range(bag.shape[1]):
            up, down = bag.copy(), bag.copy()
            up[patch, at] += step
            down[patch, at] -= step
            slope[at] = (logits(up) - logits(down)) / (2 * step)
        wanted = (bag[patch] - zero) @ slope
        # Log probabilities are logits but for a constant of all classes.
        share = got.values[patch] - got.values[patch] @ predicted(head, bag)
        assert share == pytest.approx(wanted, abs=2e-3)


@pytest.mark.parametrize("name", SILENT)
def test_heads_that_cannot_say_it_refuse(name, make_head, world) -> None:
    head = fitted_on(name, make_head, world)
    with pytest.raises(UserError, match=rf"'{name}' cannot say what each patch adds .* Use abmil"):
        head.contributions(world.bags()[0])


@pytest.mark.parametrize("name", SAYING)
def test_bags_that_do_not_fit_are_refused(name, make_head, world) -> None:
    head = fitted_on(name, make_head, world)
    with pytest.raises(DataError, match="4 wide, the head was fitted on 5"):
        head.contributions(world.bags()[0][:, :4])
    with pytest.raises(DataError, match="A bag of shape"):
        head.contributions(world.bags()[0][:0])


def test_an_estimator_of_scikit_learn_refuses(world) -> None:
    def make() -> Any:
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression()

    heads.names()
    sklearn_head(HeadCard("lr-of-sklearn", ("classification",), "x", "pooled"), make)
    try:
        from spade_bench.heads import HeadOptions

        head = heads.get("lr-of-sklearn").load(HeadOptions())
        (one,) = head.fit(world.bags(), world.fits(head, [6]), world.outputs(head))
        with pytest.raises(UserError, match="scikit-learn estimator"):
            one.contributions(world.bags()[0])
    finally:
        del heads._plugins["lr-of-sklearn"]


class _Forward(FittedHead):
    """A plugin's fitted head with a torch forward: logits of the mean of squares."""

    def predict(self, bags, cases=None):
        rows = [self.forward(torch.from_numpy(bags[i])).softmax(0) for i in cases or [0]]
        return torch.stack(rows).double().numpy()

    def forward(self, bag: torch.Tensor) -> torch.Tensor:
        mean = (bag**2).mean(dim=0)  # (D,)
        return torch.stack([mean[0], mean[1] - mean[2]])

    def tensors(self):
        return {}


def test_what_all_classes_share_is_nobodys_contribution(make_head, world) -> None:
    """A softmax does not see it, so the sign of a patch must not hang on it."""
    head = fitted_on("abmil", make_head, world)
    bag = world.bags()[4]
    got = head.contributions(bag)
    assert got.link == "softmax"
    assert got.values.sum(axis=1) == pytest.approx(np.zeros(len(bag)), abs=1e-12)


def test_a_torch_forward_is_enough() -> None:
    bag = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    head = _Forward(HeadInfo("squares", {}, 2, 3))
    got = head.contributions(bag)
    assert got.method == "gradient x input"
    assert got.attention is None
    # The gradient of a square, times the input, is twice the square.
    logits = np.stack([bag[:, 0] ** 2, bag[:, 1] ** 2 - bag[:, 2] ** 2], axis=1) * 2 / 6  # (n, 2)
    assert got.values == pytest.approx(logits - logits.mean(axis=1, keepdims=True), abs=1e-6)
    assert got.prediction() == pytest.approx(predicted(head, bag), abs=1e-6)


@pytest.mark.parametrize("times", [1, 30, 1000, 100_000])
def test_shares_of_the_risk_add_up_however_large_the_outputs(times, make_head, world) -> None:
    """Where outputs are large the risk turns within a small part of the way to them."""
    from spade_bench.heads._fitted import fitting

    head = fitted_on("abmil-nll", make_head, world)
    tensors = head.tensors()
    tensors = {**tensors, "out": tensors["out"] * times}
    able = fitting(make_head("abmil-nll", precision="fp64"))
    assert able is not None
    larger = able.restore(head.info, tensors)
    bag = world.bags()[4]
    got = larger.contributions(bag)
    hazards = 1 / (1 + np.exp(-tensors["out_b"][0]))
    of_biases = -np.cumprod(1 - hazards).sum()
    risk = predicted(larger, bag)[0]
    assert got.total == pytest.approx([risk], rel=1e-9)
    assert got.values.sum() == pytest.approx(risk - of_biases, rel=1e-6, abs=1e-9)
    assert got.offset == pytest.approx([of_biases], abs=1e-6)
