"""Third-party plugins: loose files and entry points; a broken one is named and isolated."""

from __future__ import annotations

import errno
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from spade_bench import plugins
from spade_bench.doctor.slidecontract import Finding, guarded
from spade_bench.registry import Plugin
from spade_bench.tasks.protocols import draw_episodes

ENCODER = """
from spade_bench import EncoderCard
from spade_bench.registry import encoders

CARD = EncoderCard(name="{name}", input="image", dim=4, description="mine", patch_px=8, mpp=0.5)

@encoders.register(CARD)
def load(options):
    raise NotImplementedError
"""


def spade_bench(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    code = "from spade_bench.cli.main import main; main()"
    lead = f"import sys; sys.path.insert(0, {str(path)!r}); " if path else ""
    return subprocess.run(
        [sys.executable, "-c", lead + code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_loose_file_is_listed_with_its_origin(tmp_path: Path) -> None:
    file = tmp_path / "my_encoder.py"
    file.write_text(ENCODER.format(name="mine"))
    done = spade_bench("list", "encoders", "--json", "--plugin", str(file))
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["mine"]["origin"] == str(file)
    assert rows["mine"]["pretrained_on"] is None


def test_a_task_card_is_a_plugin_too(tmp_path: Path) -> None:
    card = tmp_path / "my_task.yaml"
    card.write_text("name: my_task\nkind: classification\ntitle: Mine\ncohort: mine\n")
    done = spade_bench("--plugin", str(card), "show", "task", "my_task")
    assert done.returncode == 0, done.stderr
    assert "title: Mine" in done.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_package_at_all", "fails to import (ModuleNotFoundError"),
        ("raise SystemExit(3)", "called sys.exit(3)"),
        ("import sys\nsys.exit()", "called sys.exit(None)"),
        ("x = 1", "registers nothing"),
        (ENCODER.format(name="spade"), "already registered by built-in"),
    ],
)
def test_a_bad_loose_file_is_one_line_and_code_2(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.py"
    file.write_text(text)
    done = spade_bench("list", "--plugin", str(file))
    assert done.returncode == 2
    assert message in done.stderr
    assert str(file) in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_what_a_loose_file_prints_is_no_result(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("print('hello')\n" + ENCODER.format(name="mine"))
    done = spade_bench("list", "--plugin", str(file), "encoders")
    assert done.returncode == 0, done.stderr
    assert "hello" not in done.stdout
    assert "hello" in done.stderr


def test_entry_points_load_and_a_broken_one_does_not_take_the_rest_down(tmp_path: Path) -> None:
    (tmp_path / "good_plugin.py").write_text(ENCODER.format(name="from-a-package"))
    (tmp_path / "bad_plugin.py").write_text("raise RuntimeError('half installed')")
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[spade_bench.encoders]\ngood = good_plugin\nbad = bad_plugin\n"
    )
    done = spade_bench("list", "encoders", "--json", path=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["from-a-package"]["origin"] == "entry point good_plugin"
    assert "spade" in rows
    assert "plugin 'bad' does not load" in done.stderr
    assert "half installed" in done.stderr


BROKEN_CODE = {
    "encode": ("def encode(", "def encod(", "has no attribute 'encode'"),
    "in encode": ("torch.as_tensor(images)", "misspelt", "NameError: name 'misspelt'"),
    "in load": ("return MeanColour()", "return MeanColor()", "NameError: name 'MeanColor'"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN_CODE)
def test_what_a_plugin_raises_is_a_failed_check_and_no_bug_of_ours(
    what: str, repo: Path, tmp_path: Path
) -> None:
    old, new, said = BROKEN_CODE[what]
    file = tmp_path / "my_encoder.py"
    code = (repo / "docs" / "PLUGINS.md").read_text().split("# my_encoder.py")[1].split("```")[0]
    assert old in code
    file.write_text(code.replace(old, new))
    plugin = ("--plugin", str(file))
    done = spade_bench("check", "encoder", "mean-colour", "--json", *plugin)
    assert done.returncode == 2, done.stderr
    (runs,) = [row for row in json.loads(done.stdout)["rows"] if row["check"] == "runs"]
    assert runs["status"] == "fail"
    assert said in runs["detail"]
    (tmp_path / "patches").mkdir()
    Image.new("RGB", (224, 224)).save(tmp_path / "patches" / "s_1.png")
    folders = ("--patches", str(tmp_path / "patches"), "--out", str(tmp_path / "out"))
    done = spade_bench("extract", "--encoder", "mean-colour", *folders, *plugin)
    if what == "encode":  # raised where it is called
        assert done.returncode == 1
        assert "of the plugin if `spade-bench check` finds it" in done.stderr
    else:
        assert done.returncode == 2, done.stderr
        assert re.search(
            r"error: my_encoder\.py, line \d+: the plugin raised NameError", done.stderr
        )
        assert "(my_encoder.py, line " in runs["detail"]


def test_a_head_that_raises_is_a_failed_check(repo: Path, tmp_path: Path) -> None:
    file = tmp_path / "my_head.py"
    code = (repo / "docs" / "PLUGINS.md").read_text().split("# my_head.py")[1].split("```")[0]
    file.write_text(code.replace("yield Solved", "yield Slved"))
    done = spade_bench("check", "head", "nearest-centre", "--json", "--plugin", str(file))
    assert done.returncode == 2, done.stderr
    found = {row["check"]: row for row in json.loads(done.stdout)["rows"]}
    assert re.search(r"NameError.*\(my_head\.py, line \d+\)", found["runs"]["detail"])


def test_a_fault_of_an_encoder_or_task_of_ours_is_not_that_of_the_plugin_that_calls_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their folders stand beside the package, where it runs from its repository."""
    file = tmp_path / "mine.py"
    file.write_text("def call(what):\n    what()\n")
    monkeypatch.setattr(plugins, "_loaded", [str(file.resolve())])
    called = runpy.run_path(str(file))["call"]
    with pytest.raises(AttributeError) as caught:
        called(partial(draw_episodes, None, "external", None))
    assert plugins.place_of(caught.value) == ""
    with pytest.raises(TypeError) as caught:
        called(None)
    assert plugins.place_of(caught.value) == "mine.py, line 2"


def test_what_the_machine_refuses_is_no_failed_check() -> None:
    def full() -> Iterator[Finding]:
        yield Finding("card", "pass", "")
        raise OSError(errno.ENOSPC, "No space left on device", "x")

    plugin: Plugin[None] = Plugin("mine", None, lambda: None, "mine.py")
    with pytest.raises(OSError, match="No space"):
        list(guarded(plugin, full()))


TASK = "name: mine\nkind: {kind}\ntitle: Mine\ncohort: mine\nmetrics: [{metric}]\n"


@pytest.mark.parametrize(
    ("kind", "metric", "said"),
    [
        ("classifcation", "auroc", "no classifcation kind of task. Did you mean 'classification'"),
        ("classification", "aurok", "has no metric 'aurok'. Did you mean 'auroc'"),
    ],
)
def test_showing_a_task_checks_its_card(tmp_path: Path, kind: str, metric: str, said: str) -> None:
    card = tmp_path / "mine.yaml"
    card.write_text(TASK.format(kind=kind, metric=metric))
    done = spade_bench("show", "task", "mine", "--plugin", str(card))
    assert done.returncode == 2
    assert said in done.stderr


MISTAKEN = {
    "a task": (("task", "crc_braf"), "`spade-bench show task NAME` checks it"),
    "a word": (("hed", "logistic"), "'hed' is not one of encoder, head"),
    "a file": (("encoder", "mine.py"), "Give the file as --plugin mine.py"),
    "no plugin": (("head", "nearest-centre"), "One of your own needs --plugin FILE"),
    "a slip": (("head", "logistc"), "Did you mean 'logistic'?\n"),
}


@pytest.mark.parametrize("what", MISTAKEN)
def test_a_check_of_something_else_says_what_to_type(what: str) -> None:
    arguments, said = MISTAKEN[what]
    done = spade_bench("check", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
