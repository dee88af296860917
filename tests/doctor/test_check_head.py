"""`check head` passes what keeps the contract and names what does not; the guide's heads run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import run_main

from spade_bench import plugins
from spade_bench.doctor import check_head
from spade_bench.errors import UserError
from spade_bench.features.casebags import CaseBags
from spade_bench.heads import Fit, HeadOptions, fit
from spade_bench.registry import Plugin, heads

GUIDE = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE.read_text().split("## A head\n")[1], re.DOTALL)


@pytest.fixture
def registered(tmp_path: Path) -> Iterator[list[Path]]:
    """The heads of the guide, each written to a file and loaded."""
    before, paths = set(heads.names()), []
    for number, block in enumerate(BLOCKS):
        path = tmp_path / f"guide_{number}.py"
        path.write_text(block)
        plugins.load_file(path)
        paths.append(path)
    yield paths
    for name in set(heads.names()) - before:
        heads._plugins.pop(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", heads.names())
def test_built_in_heads_pass(name: str) -> None:
    findings = check_head(name)
    assert {finding.status for finding in findings} == {"pass"}, findings
    checked = {finding.check for finding in findings}
    assert {"determinism", "attention", "save and load", "bags of one patch"} <= checked


def test_the_guides_head_is_short_and_passes(registered: list[Path]) -> None:
    code = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(code) < 40
    assert {finding.status for finding in check_head("nearest-mean")} == {"pass"}


def test_an_estimator_of_sklearn_is_a_head_that_is_not_saved(
    registered: list[Path], tmp_path: Path
) -> None:
    findings = {finding.check: finding for finding in check_head("forest")}
    assert findings["save and load"].status == "warn"
    assert "pickle" in findings["save and load"].detail
    rest = {
        f.status for check, f in findings.items() if check not in {"save and load", "card: grid"}
    }
    assert rest == {"pass"}
    rng = np.random.default_rng(0)
    label = np.array([0, 0, 1, 1, 0, 1])
    x = (rng.normal(size=(6, 1, 4)) + label[:, None, None]).astype(np.float32)
    head = heads.get("forest").load(HeadOptions(params={"n_estimators": 7}))
    job = Fit(np.arange(6), label, np.arange(0), seed=2**40)
    (fitted,) = fit(head, CaseBags(x.__getitem__, 6, 4), [job], 3, name="forest")
    got = fitted.predict(CaseBags(x.__getitem__, 6, 4))
    assert len(fitted.estimator.estimators_) == 7
    assert (got[:, 2] == 0).all()  # a class without training cases
    assert got.sum(axis=1) == pytest.approx(1)
    with pytest.raises(UserError, match="cannot be saved without pickle"):
        fitted.save(tmp_path / "forest")


class Broken:
    """A sound head until one of its answers is changed."""

    def __init__(self, change) -> None:
        self._head = heads.get("prototype").load(HeadOptions())
        self.card, self.params, self._change = self._head.card, self._head.params, change

    def resolve(self, params):
        return self._head.resolve(params)

    def fit_predict(self, bags, fits, n_outputs):
        scores = self._head.fit_predict(bags, fits, n_outputs)
        return [self._change(own, bags, fits) for own in scores]


BROKEN = {
    "shapes": lambda scores, bags, fits: scores[:, :1],
    "probabilities": lambda scores, bags, fits: scores * 0.5,
    "determinism": lambda scores, bags, fits: (
        scores * 0.9 + 0.1 * np.random.default_rng().random(scores.shape)
    ),
    "independence of the patches' order": lambda scores, bags, fits: (
        np.array([[0.5, -0.5]]) * np.tanh(bags[1][0, 0]) + 0.5 + 0 * scores
    ),
    "independence of fits beside it": lambda scores, bags, fits: (
        np.full_like(scores, 0.5) if len(fits) > 1 else scores
    ),
    "independence of other test cases": lambda scores, bags, fits: (
        np.full_like(scores, 0.5) if len(scores) > 1 else scores
    ),
}  # fmt: skip


@pytest.mark.parametrize("check_name", sorted(BROKEN))
def test_each_fault_is_found(check_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Broken(BROKEN[check_name])
    plugin = Plugin("broken", broken.card, lambda options: broken, "test")
    monkeypatch.setitem(heads._plugins, "broken", plugin)
    found = {finding.check: finding for finding in check_head("broken")}
    assert found[check_name].status == "fail"
    assert found["unknown hyperparameters"].status == "fail"  # it takes any


def test_check_head_from_the_command_line(registered: list[Path], capsys) -> None:
    assert run_main("check", "head", "nearest-mean", "--json") == 0
    found = json.loads(capsys.readouterr().out)["rows"]
    assert {finding["status"] for finding in found} == {"pass"}
    assert run_main("check", "head", "logistics") == 2
    assert "logistic" in capsys.readouterr().err
    assert run_main("check", "head", "logistic", "--weights", "w") == 2
    assert "check encoder" in capsys.readouterr().err
