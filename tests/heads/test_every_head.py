"""What every registered head must do, whoever wrote it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from spade_bench.errors import ConfigError
from spade_bench.heads import Fit, HeadOptions, grid_points
from spade_bench.registry import heads
from spade_bench.statistics.metrics import auroc
from spade_bench.statistics.riskscores import c_index

NAMES = heads.names()
EXACT = {"precision": "fp64"}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def exact(name: str) -> dict[str, str]:
    """Settings with which stacked and single training agree to rounding."""
    return EXACT if "precision" in heads.get(name).card.defaults else {}


def test_the_heads_of_the_benchmark_are_there() -> None:
    classification = {"knn", "prototype", "logistic", "mean-mlp", "abmil", "patch-transformer"}
    assert classification | {"cox", "abmil-nll", "abmil-cox", "ridge", "abmil-mse"} <= set(NAMES)


def test_card_says_defaults_and_a_grid_that_can_be_run(name: str) -> None:
    head = heads.get(name).load(HeadOptions())
    assert head.params == head.card.defaults
    points = list(grid_points(head.card.grid))
    assert len(points) == np.prod([len(values) for values in head.card.grid.values()])
    for point in points:
        assert head.resolve(point) == {**head.card.defaults, **point}
    with pytest.raises(ConfigError, match="no_such_setting"):
        head.resolve({"no_such_setting": 1})


def test_shapes_and_ranges(name, make_head, make_world) -> None:
    head = make_head(name)
    for world in (make_world(1), make_world(2, n_cases=36, n_classes=3)):
        fits = world.fits(head, [1, 2, 5])
        scores = head.fit_predict(world.bags(), fits, world.outputs(head))
        for fit, got in zip(fits, scores, strict=True):
            assert got.shape == (len(fit.test), world.outputs(head))
            assert got.dtype == np.float64
            assert np.isfinite(got).all()
            if "classification" in head.card.kinds:
                assert (got >= 0).all()
                assert got.sum(axis=1) == pytest.approx(1.0)


def test_order_of_patches_changes_nothing(name, exact, make_head, world) -> None:
    head = make_head(name, **exact)
    fits = world.fits(head, [4, 6])
    turned = world.bags(lambda i, x: x[np.random.default_rng(i).permutation(len(x))])
    straight = head.fit_predict(world.bags(), fits, world.outputs(head))
    for a, b in zip(straight, head.fit_predict(turned, fits, world.outputs(head)), strict=True):
        assert a == pytest.approx(b, abs=1e-6)


def test_neighbours_of_other_sizes_change_nothing(name, exact, make_head, world) -> None:
    """Long test bags beside short ones, which are padded together, leave the others alone."""
    head = make_head(name, **exact)
    fit = world.fits(head, [5])[0]
    few = replace(fit, test=fit.test[:3])
    grown = world.bags(lambda i, x: x if i not in set(fit.test[3:]) else np.repeat(x, 2, axis=0))
    whole = head.fit_predict(world.bags(), [fit], world.outputs(head))[0]
    for bags, asked in ((world.bags(), few), (grown, fit)):
        got = head.fit_predict(bags, [asked], world.outputs(head))[0]
        assert got[:3] == pytest.approx(whole[:3], abs=1e-8)


def test_stacked_equals_alone(name, exact, make_head, world) -> None:
    """Draws, shots, seeds and grid points in one call give what each gives by itself."""
    head = make_head(name, **exact)
    fits = [*world.fits(head, [5, 5, 2, 1])]
    fits.append(replace(fits[0], seed=77))
    grid = {key: values[:2] for key, values in head.card.grid.items()}
    fits += [replace(fits[1], params={**point}) for point in list(grid_points(grid))[:2]]
    together = head.fit_predict(world.bags(), fits, world.outputs(head))
    for fit, got in zip(fits, together, strict=True):
        alone = head.fit_predict(world.bags(), [fit], world.outputs(head))[0]
        assert got == pytest.approx(alone, abs=1e-8)


def test_stacked_equals_alone_in_float32(name, make_head, world) -> None:
    head = make_head(name)
    fits = world.fits(head, [5, 5, 2])
    together = head.fit_predict(world.bags(), fits, world.outputs(head))
    for fit, got in zip(fits, together, strict=True):
        alone = head.fit_predict(world.bags(), [fit], world.outputs(head))[0]
        assert got == pytest.approx(alone, abs=5e-3)


def test_same_seed_same_bits(name, make_head, world) -> None:
    head = make_head(name)
    fits = world.fits(head, [4, 4])
    first, again = (head.fit_predict(world.bags(), fits, world.outputs(head)) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a, b)


def test_training_never_sees_the_test_cases(name, exact, make_head, world) -> None:
    """Other test bags, or fewer of them, leave the prediction of a test case as it is."""
    head = make_head(name, **exact)
    fit = world.fits(head, [5])[0]
    hidden = set(fit.test[1:].tolist())
    rng = np.random.default_rng(0)
    other = world.bags(lambda i, x: rng.normal(size=x.shape) - 3 * x if i in hidden else x)
    before = head.fit_predict(world.bags(), [fit], world.outputs(head))[0]
    after = head.fit_predict(other, [fit], world.outputs(head))[0]
    assert after[0] == pytest.approx(before[0], abs=1e-8)
    assert np.abs(after[1:] - before[1:]).max() > 1e-3


def test_bad_settings_are_refused(name) -> None:
    with pytest.raises(ConfigError, match="no_such_setting"):
        heads.get(name).load(HeadOptions(params={"no_such_setting": 3}))
    for key, value in heads.get(name).card.defaults.items():
        if isinstance(value, float | int) and not isinstance(value, bool):
            with pytest.raises(ConfigError):
                heads.get(name).load(HeadOptions(params={key: -1}))


@pytest.mark.parametrize("value", [-1, 0, float("nan"), float("inf"), float("-inf")])
def test_numbers_out_of_range_are_refused_by_head_name_and_range(name, value) -> None:
    may_be_zero = {"weight_decay", "min_steps", "dropout"}
    for key, usual in heads.get(name).card.defaults.items():
        if not isinstance(usual, float | int) or isinstance(usual, bool):
            continue
        if isinstance(usual, int) and isinstance(value, float):
            continue  # refused by its type
        if value == 0 and key in may_be_zero:
            heads.get(name).load(HeadOptions(params={key: value}))
            continue
        with pytest.raises(ConfigError, match=rf"head {name}: '{key}' is .*\. Use [0-9a]"):
            heads.get(name).load(HeadOptions(params={key: value}))


def test_epochs_that_min_steps_overrides_are_said_once(name, make_head, world, capsys) -> None:
    if "min_steps" not in heads.get(name).card.defaults:
        pytest.skip("it takes no steps")
    for min_steps, said in ((40, 1), (0, 0)):
        head = make_head(name, epochs=2, min_steps=min_steps)
        chunks = -(-8 // int(head.params["batch"]))
        for _ in range(2):
            head.fit_predict(world.bags(), world.fits(head, [4, 6]), world.outputs(head))
        told = [line for line in capsys.readouterr().err.splitlines() if "min_steps=" in line]
        assert len(told) == said
        if said:
            assert f"head {name}: up to {-(-min_steps // chunks)} epochs, not 2" in told[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_cpu(name, exact, make_head, world) -> None:
    params = dict(make_head(name, **exact).params)
    fits = world.fits(make_head(name), [5, 5, 2])
    on = {
        device: heads.get(name).load(HeadOptions(device, params)).fit_predict(
            world.bags(), fits, world.outputs(make_head(name))
        )
        for device in ("cpu", "cuda")
    }  # fmt: skip
    for a, b in zip(on["cpu"], on["cuda"], strict=True):
        assert a == pytest.approx(b, abs=1e-6)


DRAWS = 50


def _quality(name, make_head, make_world, permuted: bool) -> np.ndarray:
    world = make_world(5, n_cases=60, dim=5, signal=0.7)
    head = make_head(name, epochs=4) if "epochs" in heads.get(name).card.defaults else None
    head = head or make_head(name)
    target, fits = world.target(head), []
    for fit in world.fits(head, [6] * DRAWS):
        rng = np.random.default_rng([fit.seed, 4])
        fits.append(replace(fit, target=rng.permutation(fit.target)) if permuted else fit)
    scores = head.fit_predict(world.bags(), fits, world.outputs(head))

    def score(fit: Fit, got: np.ndarray) -> float:
        wanted = target[fit.test]
        if "survival" in head.card.kinds:
            return c_index(wanted[:, 0].astype(bool), wanted[:, 1], got[:, 0])
        if head.card.kinds == ("regression",):  # how often the right one of two is put higher
            return c_index(np.ones(len(wanted), dtype=bool), -wanted, got[:, 0])
        return auroc(wanted, got)[0]

    return np.array([score(fit, got) for fit, got in zip(fits, scores, strict=True)])


def test_permuted_targets_give_chance_within_an_interval(name, make_head, make_world) -> None:
    null = _quality(name, make_head, make_world, permuted=True)
    # Draws share cases, but each has its own permutation, so their errors are independent.
    low, high = stats.t.interval(0.999, DRAWS - 1, null.mean(), stats.sem(null))
    assert low < 0.5 < high
    assert high - low < 0.35
    assert _quality(name, make_head, make_world, permuted=False).mean() > high
