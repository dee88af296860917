"""Settings: unset is None in every field, and who says an option last is decided in one place."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import changed, request_of, run_main

from spade_bench import evaluation
from spade_bench import workspace as ws
from spade_bench.cli.init import TEMPLATE
from spade_bench.cli.run import run as run_command
from spade_bench.errors import ConfigError, UserError
from spade_bench.evaluation.request import EvaluationRequest, resolve_task
from spade_bench.evaluation.resolve import resolve
from spade_bench.evaluation.settings import (
    DEFAULTS,
    ELSEWHERE,
    EvaluationSettings,
    from_workspace,
    read_settings,
)
from spade_bench.registry import heads, kinds

FIELDS = [field.name for field in dataclasses.fields(EvaluationSettings)]


def _workspace(folder: Path, text: str) -> ws.Workspace:
    (folder / ws.FILE_NAME).write_text(text)
    loaded = ws.load(folder / ws.FILE_NAME)
    assert loaded is not None
    return loaded


def _value(name: str) -> Any:
    """Some value of a field's type."""
    kind = str(EvaluationSettings.__annotations__[name]).partition(" |")[0]
    return {
        "tuple[str, ...]": ("a", "b"),
        "tuple[int, ...]": (3, 5),
        "Mapping[str, Path]": {"a": Path("x")},
        "Mapping[str, Any]": {"a": {"b": 1}},
        "str": "a",
        "int": 3,
        "float": 0.5,
        "bool": True,
        "Path": Path("x"),
    }[kind]


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_unset_said_and_overruled(name: str) -> None:
    nothing, said = EvaluationSettings(), EvaluationSettings.of({name: _value(name)})
    assert getattr(nothing, name) is None
    assert nothing.said() == set()
    assert said.said() == {name}
    assert nothing.over(said) == said.over(nothing) == said
    assert said.over(DEFAULTS).said() == DEFAULTS.said() | {name}
    assert getattr(said.over(DEFAULTS), name) == _value(name)
    assert EvaluationSettings.of({name: None}) == nothing


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_is_a_flag(name: str) -> None:
    singular = {"set": "set_", "splits": "splits"}.get(name, name.removesuffix("s"))
    parameters = run_command.__annotations__
    assert name in parameters or singular in parameters


def test_flags_over_yaml_over_workspace_over_defaults(tmp_path: Path) -> None:
    workspace = _workspace(tmp_path, "run: {shots: [2, 1], draws: 3, seed: 4}\nout: results\n")
    file = tmp_path / "sweep.yaml"
    file.write_text("draws: 5\nseed: 6\nset: {knn.k: 3, logistic.C: 2}\n")
    flags = EvaluationSettings(seed=7, set={"knn": {"k": 9}})
    settings = flags.over(read_settings(file)).resolved(workspace)
    assert (settings.shots, settings.draws, settings.seed) == ((1, 2), 5, 7)
    assert settings.folds == DEFAULTS.folds
    assert settings.set == {"knn": {"k": 9}, "logistic": {"C": 2}}
    assert settings.out == tmp_path / "results"
    assert from_workspace(workspace).said() == {"shots", "draws", "seed", "out", "device"}
    assert from_workspace(None) == EvaluationSettings()


@pytest.mark.parametrize("name", sorted(set(FIELDS) - ELSEWHERE.keys()))
def test_the_workspace_takes_every_setting_of_all_runs(name: str, tmp_path: Path) -> None:
    value = _value(name)
    plain = str(value) if isinstance(value, Path) else value
    written = yaml.safe_dump({"run": {name: list(value) if isinstance(value, tuple) else plain}})
    settings = from_workspace(_workspace(tmp_path, written))
    near = tmp_path / value if isinstance(value, Path) else value  # beside the file
    assert getattr(settings, name) == near
    assert settings.said() == {name, "out", "device"}
    documented = (Path(__file__).parents[2] / "docs" / "WORKSPACE.md").read_text()
    assert f"`{name}`" in documented


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_the_workspace_says_where_other_settings_stand(name: str, tmp_path: Path) -> None:
    workspace = _workspace(tmp_path, f"run: {{{name}: x}}\n")
    with pytest.raises(ConfigError) as refused:
        from_workspace(workspace)
    assert str(workspace.path) in str(refused.value)
    assert ELSEWHERE[name].split("(")[0] in str(refused.value)
    assert name in FIELDS


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("{shot: 3}", "run: unknown key 'shot'"),
        ("{draws: many}", "'draws' is 'many', which is not of type int"),
        ("{draws: 0}", "--draws is 0"),
        ("{protocol: loo}", "there is no protocol 'loo'"),
        ("{keep_heads: some}", "no choice of heads to keep"),
        ("{cache: some}", "some"),
        ("{controls: false, permutations: 2}", "--permutations is an option of the controls"),
    ],
)
def test_settings_of_the_workspace_are_checked_as_others(
    run: str, message: str, study: Any, tmp_path: Path
) -> None:
    workspace = _workspace(tmp_path, f"run: {run}\n")
    given = EvaluationSettings.of(
        {"encoders": "mine", "tasks": "t", "tables": study.table, "features": study.features}
    )
    with pytest.raises(UserError, match=message):
        evaluation.run_settings(given, workspace, dry_run=True)


def test_a_protocol_of_the_workspace_runs_and_what_it_does_not_use_is_said(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = _workspace(tmp_path, "run: {protocol: cv, folds: 3, draws: 2, controls: false}\n")
    given = EvaluationSettings.of(
        {"encoders": "mine", "tasks": "t", "tables": study.table, "features": study.features}
    )
    summary = evaluation.run_settings(given, workspace, dry_run=True)
    assert [row[4] for row in summary.planned] == [3]
    assert "draws of `run` belong to few-shot and are not used with cv" in capsys.readouterr().err


@pytest.mark.parametrize("nothing", [(), [], {}, None])
def test_a_list_without_entries_says_nothing(nothing: Any) -> None:
    options = dict.fromkeys(("heads", "shots", "features", "set"), nothing)
    assert EvaluationSettings.of(options) == EvaluationSettings()


def test_one_value_stands_for_a_list_or_for_every_name() -> None:
    settings = EvaluationSettings.of({"encoders": "mine", "shots": 4, "features": Path("f")})
    assert settings.encoders == ("mine",)
    assert settings.shots == (4,)
    assert settings.features == {"*": Path("f")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "mine"}, "unknown key 'encoder'"),
        ({"nothing": None}, "unknown key 'nothing'"),
        ({"draws": "many"}, "'draws' is 'many', which is not of type int"),
        ({"set": {"knn": 3}}, "'set.knn' must hold keys and values"),
        ({1: 2}, "unknown key '1'"),
    ],
)
def test_options_are_checked_by_name_and_type(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EvaluationSettings.of(options)


def test_settings_run_without_a_request(study: Any, tmp_path: Path) -> None:
    settings = EvaluationSettings.of(
        {
            "encoders": "mine",
            "tasks": "my_task",
            "tables": study.table,
            "features": study.features,
            "shots": 1,
            "draws": 1,
            "heads": "knn",
            "device": "cpu",
            "controls": False,
        }
    )
    with pytest.raises(UserError, match="The folder for results is not given"):
        evaluation.run_settings(settings)
    settings = dataclasses.replace(settings, out=tmp_path / "o")
    assert evaluation.run_settings(settings, dry_run=True).done == 0
    assert evaluation.run_settings(settings).done == 1


@pytest.mark.parametrize("name", kinds.names())
def test_heads_of_the_workspace_stand_for_the_kinds_they_serve(
    name: str, study: Any, tmp_path: Path
) -> None:
    kind = kinds.get(name).card
    request = request_of(study, tmp_path)
    card = dataclasses.replace(request.tasks[0].card, kind=name)
    assert request.heads_of(card) == (kind.default_head,)
    for head in heads.names():
        space = _workspace(tmp_path, f"run: {{heads: [{head}]}}\n")
        serves = kind.head_kind in heads.get(head).card.kinds
        standing = dataclasses.replace(request, workspace=space)
        assert standing.heads_of(card) == ((head,) if serves else (kind.default_head,))
        # Who asks for a head by name gets it, or hears that it does not serve.
        assert changed(standing, heads=(head,)).heads_of(card) == (head,)


def test_a_workspace_with_heads_of_another_kind_runs_survival(
    survival: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    _workspace(tmp_path, "run: {heads: [logistic], draws: 1}\n")
    given = ["--table", survival.table, "--features", survival.features, "--shots", "2"]
    command = ["run", "--encoder", "mine", "--task", "t", *given, "--no-controls", "--out", "o"]
    assert run_main(*command, "--set", "cox.penalizer=0.1", "--device", "cpu") == 0
    assert "no head of `run` serves survival, which takes cox" in capsys.readouterr().err


def test_the_template_of_init_sets_nothing_that_differs(tmp_path: Path) -> None:
    settings = EvaluationSettings().resolved(_workspace(tmp_path, TEMPLATE))
    usual = EvaluationSettings().resolved(None)
    assert dataclasses.replace(settings, out=None) == usual


def test_a_request_refuses_settings_of_what_does_not_run(study: Any, tmp_path: Path) -> None:
    space = _workspace(tmp_path, "run: {heads: [knn]}\n")
    settings = EvaluationSettings(
        encoders=("mine",), tasks=("t",), tables={"*": study.table}, set={"logistic": {"C": 2}}
    )
    with pytest.raises(UserError, match="unknown key 'logistic'"):
        resolve(settings, space)
    assert isinstance(resolve(settings, None), EvaluationRequest)
    assert resolve_task("t", study.table, None) == resolve(settings, None).tasks[0]
