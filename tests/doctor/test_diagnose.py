"""The doctor names, for each encoder, the next thing to do."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spade_bench import plugins
from spade_bench.cli.main import main
from spade_bench.doctor import EncoderState, diagnose
from spade_bench.doctor import hubaccess as hub
from spade_bench.errors import PluginError
from spade_bench.features import weightfiles
from spade_bench.features.weightfiles import FOLDER_VARIABLE
from spade_bench.registry import encoders


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins.install()
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(weightfiles, "cached", lambda *a, **k: None)


def see(
    monkeypatch: pytest.MonkeyPatch,
    *,
    reachable: bool,
    token: bool = False,
    allowed: dict[str, bool | None] | None = None,
) -> list[str]:
    """Let the hub be seen as given; return the repositories that are asked about."""
    asked: list[str] = []

    def may_read(repos: set[tuple[str, str]]) -> dict[str, bool | None]:
        asked.extend(repo for repo, _ in repos)
        return allowed or {}

    seen = hub.Hub("https://hub.example", reachable, False, token, 0.1)
    monkeypatch.setattr(hub, "ask", lambda: seen)
    monkeypatch.setattr(hub, "may_read", may_read)
    return asked


def state(name: str, **options: object) -> EncoderState:
    (found,) = diagnose("cpu", names=(name,), **options).encoders  # type: ignore[arg-type]
    return found


def test_an_encoder_of_changes_also_needs_the_one_it_changes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    see(monkeypatch, reachable=False)
    assert "seal_univ2_vision.pth into" in state("seal-uni2").fix
    for name, file in (("seal-uni2", "seal_univ2_vision.pth"), ("uni2", "model.safetensors")):
        found = state("seal-uni2")
        assert not found.ready
        assert found.fix.startswith("for uni2" if name == "uni2" else "offline")
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_bytes(b"weights")
    assert state("seal-uni2").ready
    monkeypatch.delenv(FOLDER_VARIABLE)
    asked = see(monkeypatch, reachable=True, token=True, allowed={"MahmoodLab/SEAL": True})
    assert state("seal-uni2").ready
    assert set(asked) == {"MahmoodLab/SEAL", "MahmoodLab/UNI2-h"}
    refused = {"MahmoodLab/SEAL": True, "MahmoodLab/UNI2-h": False}
    see(monkeypatch, reachable=True, token=True, allowed=refused)
    assert state("seal-uni2").fix.endswith("hub.example/MahmoodLab/UNI2-h")


def test_show_names_the_encoder_that_is_changed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["show", "encoder", "seal-uni2"])
    assert "  - the weights of uni2\n" in capsys.readouterr().out


def test_offline_each_encoder_says_where_its_weights_belong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = see(monkeypatch, reachable=False, token=True)
    found = {row.name: row for row in diagnose("cpu").encoders}
    assert set(found) == set(encoders.names())
    assert asked == []  # nobody asks about licences without a hub
    for name, row in found.items():
        assert row.ready == (not row.fix), name
    assert found["efficientnet-lite0"].ready
    assert found["efficientnet-lite0"].reachable is None
    assert found["random-lite0"].ready
    assert found["uni"].fix.startswith("offline: put")
    assert found["virchow2-cls"].fix.endswith("into $SPADE_BENCH_WEIGHTS/virchow2/")
    assert "put CHIEF_CTransPath.pth into" in found["ctranspath-chief"].fix
    assert "put pytorch_model.bin or model.safetensors into" in found["uni"].fix
    assert "put all of Aignostics/RudolfV-2 into" in found["rudolfv2"].fix
    assert "--trust-remote-code" in found["rudolfv2"].notes
    assert found["spade"].fix.startswith("--weights FOLDER")
    for name in ("mean-pool", "std-pool", "max-pool"):
        assert found[name].ready  # no weights at all
    assert "put all of MahmoodLab/abmil.base.uni.pc108-24k into" in found["feather-uni"].fix
    assert "--trust-remote-code" in found["feather-uni"].notes
    assert found["gigapath"].precision == "fp32"  # fp16 means fp32 on CPU
    assert found["uni2"].precision == "bf16"


def test_the_next_step_follows_the_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, reachable=True)
    page = "https://hub.example/paige-ai/Virchow2"
    assert state("virchow2").fix == f"accept the licence at {page}, then: hf auth login"
    assert (state("phikon").ready, state("phikon").notes) == (True, "downloads on first use")
    chief = state("ctranspath-chief").fix
    assert "https://hub.example/datasets/MahmoodLab/hest-bench" in chief
    asked = see(monkeypatch, reachable=True, token=True, allowed={"paige-ai/Virchow2": False})
    row = state("virchow2")
    assert (row.fix, row.licence) == (f"accept the licence at {page}", "not accepted")
    assert asked == ["paige-ai/Virchow2"]
    see(monkeypatch, reachable=True, token=True, allowed={"paige-ai/Virchow2": True})
    row = state("virchow2")
    assert (row.ready, row.licence) == (True, "accepted")
    see(monkeypatch, reachable=True, token=True, allowed={"paige-ai/Virchow2": None})
    assert state("virchow2").licence == "unknown"


def test_packages_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, reachable=True, token=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    row = state("musk")
    assert row.missing == ("musk", "fairscale")
    assert row.fix.startswith("pip install fairscale git+https")
    older = "in another environment: pip install 'transformers<5'"
    assert state("conch_v15").fix == f"{older} einops einops_exts"
    assert state("prism").fix == f"{older} environs sacremoses"


def test_weights_on_disk_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    see(monkeypatch, reachable=False)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / "uni2").mkdir()
    assert not state("uni2").ready  # the folder is empty
    (tmp_path / "uni2" / "pytorch_model.bin").touch()
    assert (state("uni2").ready, state("uni2").on_disk) == (True, str(tmp_path / "uni2"))
    named = state("spade", weights={"spade": tmp_path})
    assert (named.ready, named.on_disk) == (True, str(tmp_path))
    file = tmp_path / "cached.bin"
    monkeypatch.setattr(
        weightfiles, "cached", lambda repo, name, **k: file if repo == "owkin/phikon" else None
    )
    assert state("phikon").on_disk == str(file)
    with pytest.raises(PluginError, match="Did you mean 'phikon'"):
        state("phikonn")


PLUGIN = """
from spade_bench.registry import encoders
from spade_bench.types import EncoderCard, Needs

CARD = EncoderCard(
    "needy", "image", 3, "d", patch_px=8, mpp=0.5, gated=True, remote_code=True,
    needs=Needs(("somebody/needy",), ("w.bin",), modules=("no_such_module",), install="such-thing"),
)
encoders.add(CARD, lambda options: None)
"""


def test_a_plugins_card_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    encoders.names()
    monkeypatch.setattr(encoders, "_plugins", dict(encoders._plugins))
    (tmp_path / "needy.py").write_text(PLUGIN)
    plugins.load_file(tmp_path / "needy.py")
    see(monkeypatch, reachable=False)
    row = state("needy")
    assert (row.missing, row.fix) == (("no_such_module",), "pip install such-thing")
    assert "its card pins no commit of that code: --revision COMMIT" in row.notes
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert (
        state("needy").fix == "offline: put all of somebody/needy into $SPADE_BENCH_WEIGHTS/needy/"
    )
    asked = see(monkeypatch, reachable=True, token=True, allowed={"somebody/needy": False})
    assert state("needy").fix == "accept the licence at https://hub.example/somebody/needy"
    assert asked == ["somebody/needy"]


def test_the_doctor_knows_no_encoder_by_name() -> None:
    import spade_bench.doctor as room

    names = [f'"{name}' for name in encoders.names()]
    for path in Path(str(room.__file__)).parent.glob("*.py"):
        text = path.read_text().replace("spade-bench", "")  # the program itself
        assert not [name for name in names if name in text], path
        assert "encoders.zoo" not in text
        assert "encoders.wholeslide" not in text


def test_one_slow_answer_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(repo: str, kind: str) -> bool:
        if repo == "a/slow":
            time.sleep(1.5)
        return True

    monkeypatch.setattr(hub, "_may_read", ask)
    monkeypatch.setattr(hub, "_SECONDS", 0.5)
    start = time.monotonic()
    answers = hub.may_read([("a/slow", "model"), ("b/fast", "model")])
    assert answers == {"a/slow": None, "b/fast": True}
    assert time.monotonic() - start < 1.4


def test_refusals_of_the_hub_are_told_from_its_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    def refuse(kind: type[Exception]) -> object:
        def check(self: object, repo: str, repo_type: str) -> None:
            raise kind.__new__(kind)

        return check

    monkeypatch.setattr(HfApi, "auth_check", refuse(GatedRepoError))
    assert hub.may_read([("a/b", "model")]) == {"a/b": False}
    monkeypatch.setattr(HfApi, "auth_check", refuse(HfHubHTTPError))
    assert hub.may_read([("a/b", "model")]) == {"a/b": None}


def test_the_command_prints_json_at_once_when_offline() -> None:
    command = "from spade_bench.cli.main import main; main(['doctor', '--json', '--device', 'cpu'])"
    environment = {"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", command],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout)
    assert (out["hub"]["reachable"], out["hub"]["offline"], out["device"]) == (False, True, "cpu")
    assert {"torch", "timm", "transformers"} <= set(out["versions"])
    assert {row["name"] for row in out["encoders"]} >= {"uni", "virchow2", "efficientnet-lite0"}
