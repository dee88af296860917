"""Fitted heads: they predict what the stack predicted, and are saved and loaded whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from spade_bench.errors import DataError, PluginError, UserError
from spade_bench.files import hash_file, read_sealed, write_sealed
from spade_bench.heads import FittedHead, HeadOptions, fit, fitting
from spade_bench.registry import heads

NAMES = heads.names()
WITH_ATTENTION = ["abmil", "abmil-cox", "abmil-mse", "abmil-nll"]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def jobs(head, world):
    """Draws of different size, one of which stops early, and a point of the grid."""
    fits = world.fits(head, [5, 5, 2])
    tune, test = fits[0].test[:8], fits[0].test[8:]
    tuned = replace(fits[0], tune=tune, tune_target=world.target(head)[tune], test=test)
    point = {key: values[0] for key, values in head.card.grid.items()}
    return [*fits, tuned, replace(fits[1], params=point)]


def test_a_fitted_head_predicts_what_the_stack_predicted(name, make_head, world) -> None:
    head = make_head(name)
    fits, n = jobs(head, world), world.outputs(head)
    kept: dict[int, FittedHead] = {}
    stacked = head.fit_predict(world.bags(), fits, n, kept.__setitem__)
    plain = head.fit_predict(world.bags(), fits, n)
    fitted = head.fit(world.bags(), fits, n)
    assert sorted(kept) == list(range(len(fits)))
    for index, job in enumerate(fits):
        assert np.array_equal(stacked[index], plain[index])  # handing heads out changes nothing
        for one in (kept[index], fitted[index]):
            got = one.predict(world.bags(), job.test.tolist())
            assert got.shape == stacked[index].shape
            assert got == pytest.approx(stacked[index], abs=2e-6)  # float32 products of one model
            assert dict(one.info.params) == dict(head.resolve(job.params))


def test_alone_it_is_the_same_to_the_bit(name, make_head, world) -> None:
    """A stack of one multiplies the same matrices; `logistic` takes all cases at once there."""
    head = make_head(name)
    for job in jobs(head, world):
        kept: dict[int, FittedHead] = {}
        stacked = head.fit_predict(world.bags(), [job], world.outputs(head), kept.__setitem__)[0]
        got = kept[0].predict(world.bags(), job.test.tolist())
        if name == "logistic":
            assert got == pytest.approx(stacked, abs=1e-12)
        else:
            assert np.array_equal(got, stacked)


def test_saved_and_loaded_it_predicts_the_same_bits(name, make_head, make_world, tmp_path) -> None:
    head = make_head(name)
    for world in (make_world(1), make_world(2, n_cases=36, n_classes=3)):
        n = world.outputs(head)
        (one,) = head.fit(world.bags(), world.fits(head, [4]), n)
        classes = tuple(f"c{i}" for i in range(n)) if n > 1 else ()
        one.with_classes(classes).save(tmp_path / name)
        again = FittedHead.load(tmp_path / name)
        assert again.info.classes == classes
        assert (again.info.head, again.info.dim, again.info.n_outputs) == (name, 5, n)
        assert np.array_equal(again.predict(world.bags()), one.predict(world.bags()))
        assert {path.name for path in (tmp_path / name).iterdir()} == {
            "head.json",
            "head.safetensors",
        }


def test_attention_sums_to_one_or_is_refused(name, make_head, world) -> None:
    head = make_head(name)
    (one,) = head.fit(world.bags(), world.fits(head, [4]), world.outputs(head))
    bag = world.bags()[3]
    if name not in WITH_ATTENTION:
        with pytest.raises(UserError, match=rf"'{name}' has no attention"):
            one.attention(bag)
        return
    weights = one.attention(bag)
    assert weights.shape == (len(bag),)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1.0, abs=1e-6)
    order = np.random.default_rng(0).permutation(len(bag))
    assert one.attention(bag[order]) == pytest.approx(weights[order], abs=1e-6)
    with pytest.raises(DataError, match="4 wide, the head was fitted on 5"):
        one.attention(bag[:, :4])
    with pytest.raises(DataError, match="A bag of shape"):
        one.attention(bag[:0])


def test_features_of_another_width_are_refused(name, make_head, make_world) -> None:
    world, other = make_world(1), make_world(1, dim=7)
    head = make_head(name)
    (one,) = head.fit(world.bags(), world.fits(head, [4]), world.outputs(head))
    with pytest.raises(DataError, match="7 wide, the head was fitted on 5"):
        one.predict(other.bags())


def _rewrite(folder: Path, change) -> None:
    """Change tensors and seal the folder again, as somebody who knows the format could."""
    tensors = load_file(folder / "head.safetensors")
    change(tensors)
    save_file(tensors, folder / "head.safetensors")
    about = read_sealed(folder / "head.json")
    digest = hash_file(folder / "head.safetensors")
    write_sealed(folder / "head.json", {**about, "tensors": digest})


def _drop(tensors) -> None:
    tensors.pop(sorted(tensors)[0])


def _add(tensors) -> None:
    tensors["extra"] = np.zeros(3)


def _reshape(tensors) -> None:
    first = sorted(tensors)[0]
    tensors[first] = tensors[first][None].copy()


def _retype(tensors) -> None:
    first = sorted(tensors)[0]
    tensors[first] = tensors[first].astype(np.float16)


@pytest.mark.parametrize(
    ("change", "message"),
    [(_drop, "lacks the tensors"), (_add, "unknown tensors: extra"), (_reshape, "is float|is int"),
     (_retype, "is float16")],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(
    name, change, message, make_head, world, tmp_path
) -> None:
    head = make_head(name)
    (one,) = head.fit(world.bags(), world.fits(head, [4]), world.outputs(head))
    one.save(tmp_path / "head")
    _rewrite(tmp_path / "head", change)
    with pytest.raises(DataError, match=message):
        FittedHead.load(tmp_path / "head")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 6}, "not float"),
        ({"n_outputs": 3}, "not float"),
        ({"head": "no-such-head"}, "Unknown head"),
        ({"params": {"C": -1}}, "'C' is -1"),
        ({"params": {}}, "describes no head"),
        ({"classes": ["a"]}, "1 classes for 2 outputs"),
        ({"dim": "five"}, "'dim' is not of type int"),
        ({"more": 1}, "unknown or missing keys: more"),
        ({"version": 9}, "format version 9"),
        ({"format": "cake"}, "does not describe a saved head"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    change, message, make_head, world, tmp_path
) -> None:
    head = make_head("logistic")
    head.fit(world.bags(), world.fits(head, [4]), 2)[0].save(tmp_path / "head")
    path = tmp_path / "head" / "head.json"
    write_sealed(path, {**read_sealed(path), **change})
    with pytest.raises((DataError, PluginError), match=message):
        FittedHead.load(tmp_path / "head")


def test_damage_is_named(make_head, world, tmp_path) -> None:
    head = make_head("abmil")
    head.fit(world.bags(), world.fits(head, [4]), 2)[0].save(tmp_path / "head")
    tensors = tmp_path / "head" / "head.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-4] + b"beef")
    with pytest.raises(DataError, match="checksum"):
        FittedHead.load(tmp_path / "head")
    tensors.unlink()
    with pytest.raises(DataError, match="no such file"):
        FittedHead.load(tmp_path / "head")
    path = tmp_path / "head" / "head.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dim": 9}))
    with pytest.raises(DataError, match="damaged or edited"):
        FittedHead.load(tmp_path / "head")


def test_a_folder_of_something_else_is_left_alone(make_head, world, tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    head = make_head("logistic")
    (one,) = head.fit(world.bags(), world.fits(head, [4]), 2)
    with pytest.raises(DataError, match="not a saved head"):
        one.save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


class PredictsOnly:
    """A head of before: `fit_predict` and nothing else."""

    def __init__(self, head) -> None:
        self.card, self.params, self._head = head.card, head.params, head

    def resolve(self, params):
        return self._head.resolve(params)

    def fit_predict(self, bags, fits, n_outputs):
        return self._head.fit_predict(bags, fits, n_outputs)


def test_a_head_that_only_predicts_says_so(make_head, world) -> None:
    head = PredictsOnly(make_head("logistic"))
    assert fitting(head) is None
    with pytest.raises(UserError, match="returns no fitted object"):
        fit(head, world.bags(), world.fits(head, [4]), 2, name="old")


def test_transmil_is_answered_with_its_new_name() -> None:
    with pytest.raises(PluginError, match=r"never the published TransMIL.*'patch-transformer'"):
        heads.get("transmil")
    assert "transmil" not in heads
    assert heads.get("patch-transformer").load(HeadOptions()).params["hidden"] == 128
