"""merge, export and import: what contradicts is refused, no path leaves, no bad zip gets in."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import stat
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spade_bench as sb
from spade_bench.cli.main import main
from spade_bench.errors import DataError, UserError
from spade_bench.files import write_json
from spade_bench.results import Predictions, ResultStore, Row, StoredPredictions
from spade_bench.results.merging import ROUNDING, apart
from spade_bench.results.pathscrub import absolute_paths, scrubbed
from spade_bench.results.unpacking import MANIFEST
from tests.helpers.older_predictions import make_older
from tests.helpers.stored_cells import store_predictions

INPUTS = {"cohort": "c", "task": "t", "encoder": "e", "head": "h", "features": "f"}


def same_predictions(one: Predictions, other: Predictions) -> bool:
    return apart(one, other) <= ROUNDING


def fill(
    out: Path,
    encoder: str = "uni",
    draws: range = range(3),
    *,
    off: float = 0.0,
    **changes: Any,
) -> list[Row]:
    """Store draws of an encoder, one file of predictions per draw, all values off by ``off``."""
    rows = []
    for draw in draws:
        rng = np.random.default_rng([draw, len(encoder), changes.pop("noise", 0)])
        p = rng.uniform(size=20) + off
        told = Predictions(
            tuple(f"c{i}" for i in range(20)), ("neg", "pos"), np.arange(20) % 2,
            np.stack([1 - p, p], axis=1),
        )  # fmt: skip
        row = Row(
            f"{encoder}-{draw}", "ok", encoder, "t", "logistic", "few-shot", 4, draw,
            metrics={"auroc": 0.5}, n={"train": 8, "test": 20}, identity=f"made-{encoder}",
            inputs={**INPUTS, "encoder": encoder, "episode": str(draw)},
        )  # fmt: skip
        row = replace(row, **changes)
        rows.append(replace(row, predictions_sha256=store_predictions(out, row, told)))
    ResultStore(out).append(rows)
    return rows


def told(out: Path) -> dict[str, list[Any]]:
    stored = StoredPredictions(out)
    rows = ResultStore(out).rows()
    return {
        row.run_id: stored.of(row, sha256=row.predictions_sha256).scores.tolist() for row in rows
    }


@pytest.mark.parametrize("older", [False, True])
def test_folders_are_joined_and_tidied(tmp_path: Path, older: bool) -> None:
    a, b, out = tmp_path / "a", tmp_path / "b", tmp_path / "out"
    fill(a)
    fill(b, draws=range(1, 5))
    fill(b, "other")
    if older:
        make_older(a)
    merged = sb.merge([a, b], out=out)
    assert (merged.cells, merged.failed, merged.twice) == (8, 0, 2)
    assert told(out) == {**told(a), **told(b)}
    assert len(list(out.rglob("*.parquet"))) == 2  # one per encoder, task and head
    together, apart = sb.load_results(out), sb.load_results([a, b])
    assert together.leaderboard().equals(apart.leaderboard())
    assert sorted(path.name for path in out.iterdir()) == ["predictions", "results.jsonl"]


def test_a_cell_that_failed_in_one_folder_stands_as_finished(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    (row, *_) = fill(b)
    ResultStore(a).append([replace(row, status="failed", error="no", predictions_sha256="")])
    for order in ([a, b], [b, a]):
        out = tmp_path / order[0].name / "out"
        shutil.rmtree(out, ignore_errors=True)
        merged = sb.merge(order, out=tmp_path / f"from-{order[0].name}")
        assert (merged.cells, merged.failed) == (3, 0)


def test_cells_that_differ_by_rounding_are_joined_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fit beside other draws is rounded otherwise than alone: 1e-14 is no contradiction."""
    a, b = tmp_path / "a", tmp_path / "b"
    fill(a, draws=range(2))
    fill(b, draws=range(1, 3), off=1e-14, metrics={"auroc": 0.50125})  # where a tie broke
    merged = sb.merge([a, b], out=tmp_path / "out")
    assert (merged.cells, merged.twice) == (3, 1)
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(r"1 cell differs between folders by rounding, at most [1-9]e-1[34]:", said)
    assert "those of the folder named first stand" in said
    together = sb.load_results(tmp_path / "out").leaderboard()
    assert together.equals(sb.load_results([a, b]).leaderboard())
    assert " ".join(capsys.readouterr().err.split()).startswith(said[said.index("1 cell") :])
    fill(tmp_path / "c", draws=range(1), off=1e-3)
    with pytest.raises(DataError, match="has other predictions than in"):
        sb.merge([a, tmp_path / "c"], out=tmp_path / "none")
    with pytest.raises(DataError, match="has other predictions than in"):
        sb.load_results([a, tmp_path / "c"])


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize(
    ("changed", "said"),
    [({"draw": 7}, "names, shots, draw"), ({"head": "abmil"}, "names"), ({"noise": 1}, "predi")],
)
def test_one_run_id_of_two_cells_is_refused_by_merge_and_report_alike(
    tmp_path: Path, changed: dict[str, Any], said: str, older: bool
) -> None:
    fill(tmp_path / "a", draws=range(1))
    fill(tmp_path / "b", draws=range(1), **changed)
    if older:  # no row says what its predictions are
        for folder in (tmp_path / "a", tmp_path / "b"):
            rows = ResultStore(folder).rows()
            (folder / "results.jsonl").unlink()
            ResultStore(folder).append(replace(row, predictions_sha256="") for row in rows)
    both = [tmp_path / "a", tmp_path / "b"]
    for use in (sb.load_results, lambda folders: sb.merge(folders, out=tmp_path / "out")):
        with pytest.raises(DataError, match=f"uni-0 .* has other {said}.* than in {both[0]}"):
            use(both)
    assert not (tmp_path / "out").exists()


def test_a_row_with_the_run_id_of_another_cell_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "a", draws=range(2))
    (row, other) = ResultStore(tmp_path / "a").rows()
    ResultStore(tmp_path / "a").append([replace(other, run_id=row.run_id)])
    store = ResultStore(tmp_path / "a")
    assert store.rows() == [row, other]
    (problem,) = store.problems
    assert f"line 3: has the run id {row.run_id} of another cell" in problem


def test_values_in_a_small_unit_are_no_rounding() -> None:
    """Of values around 1e-6 a difference of 3e-6 is a contradiction."""
    ids, value = tuple(f"c{i}" for i in range(20)), np.linspace(1e-6, 4e-6, 20)
    one = Predictions(ids, (), value, value[:, None])
    other = Predictions(ids, (), value, value[::-1, None].copy())
    assert not same_predictions(one, other)
    assert same_predictions(one, Predictions(ids, (), value, value[:, None] * (1 + 1e-7)))


def test_no_contradiction_hides_behind_its_scale() -> None:
    """Small probabilities that change places, and one wild value beside changed signs."""
    ids, label = tuple(f"c{i}" for i in range(40)), np.arange(40) % 2
    p = np.where(label, 4e-6, 1e-6)

    def classes(p: np.ndarray) -> Predictions:
        return Predictions(ids, ("a", "b"), label, np.stack([1 - p, p], axis=1))

    assert not same_predictions(classes(p), classes(5e-6 - p))
    assert same_predictions(classes(p), classes(p * (1 + 2e-6)))
    value = np.random.default_rng(0).normal(size=40)
    value[0] = 1e7
    turned = np.where(np.arange(40) == 0, value, -value)
    one, other = (Predictions(ids, (), value, x[:, None]) for x in (value, turned))
    assert not same_predictions(one, other)
    # What float32 leaves of a value near zero is small beside the other cases.
    near = np.where(np.arange(40) == 1, 1e-6, value)
    moved = np.where(np.arange(40) == 1, -1e-6, value)
    one, other = (Predictions(ids, (), value, x[:, None]) for x in (near, moved))
    assert same_predictions(one, other)


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "other predictions": ({"noise": 1}, "has other predictions than in"),
    "other metrics": ({"metrics": {"auroc": 0.9}}, "has other metrics than in"),
    "other identity": ({"run_id": "x", "identity": "y"}, "encoder 'uni' has another identity"),
    "other encoder settings": (
        {"run_id": "x", "inputs": {**INPUTS, "encoder": "y"}}, "encoder 'uni' has another settings",
    ),
    "other task": (
        {"run_id": "x", "inputs": {**INPUTS, "encoder": "uni", "task": "y"}}, "task 't' has",
    ),
    "other head settings": (
        {"run_id": "x", "inputs": {**INPUTS, "encoder": "uni", "head": "y"}}, "head 'logistic' has",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_what_contradicts_is_refused_and_nothing_is_made(tmp_path: Path, what: str) -> None:
    changes, said = CONTRADICTIONS[what]
    fill(tmp_path / "a", draws=range(1))
    fill(tmp_path / "b", draws=range(1), **changes)
    with pytest.raises(DataError, match=said):
        sb.merge([tmp_path / "a", tmp_path / "b"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["part", "row"])
def test_damage_is_named_with_its_remedy_and_nothing_is_made(tmp_path: Path, what: str) -> None:
    folder, out = tmp_path / "a", tmp_path / "out"
    fill(folder)
    if what == "part":
        part = next(folder.rglob("*.parquet"))
        part.write_bytes(part.read_bytes()[:-3])
        said, fix = f"{part.name}: predictions were damaged", "Repeat its `spade-bench run` command"
    else:
        with (folder / "results.jsonl").open("a") as file:
            file.write("{}\n")
        said, fix = "results.jsonl line 4: schema is None", "Remove that line, and repeat"
    with pytest.raises(DataError, match=f"{re.escape(said)}.*Nothing is merged.*{fix}"):
        sb.merge([folder], out=out)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_damaged_file_is_named_once_whatever_it_takes_along(tmp_path: Path, capsys: Any) -> None:
    fill(tmp_path / "a")
    fill(tmp_path / "a", "spade", range(12))
    fill(tmp_path / "a", "virchow")
    merged = sb.merge([tmp_path / "a"], out=tmp_path / "b").out  # a file per encoder
    (part,) = (merged / "predictions/t/spade").iterdir()
    part.write_bytes(part.read_bytes()[:-3])
    (other,) = (merged / "predictions/t/virchow").iterdir()
    other.unlink()
    with pytest.raises(SystemExit):
        main(["report", str(merged), "--no-plots"])
    said = capsys.readouterr().err.splitlines()
    (one,) = [line for line in said if str(part) in line and line.startswith("warning")]
    assert one.endswith("(12 results)")
    assert any("no predictions" in line and line.endswith("(3 results)") for line in said)
    assert "15 stored result(s) are damaged" in said[-1]


def test_a_place_that_is_taken_or_read_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    for out in (tmp_path / "a", tmp_path / "a" / "new"):
        with pytest.raises(UserError, match=r"there already|lies in"):
            sb.merge(tmp_path / "a", out=out)
    with pytest.raises(DataError, match="no results here"):
        sb.merge([tmp_path / "a", tmp_path / "nothing"], out=tmp_path / "out")


@pytest.mark.parametrize("name", ["configs/run-1.json", "plans/t-1.json", "cohorts/t-1.json",
                                  "episodes/t-1.json"])  # fmt: skip
@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe{", b'{"task": "x", "seal": "0"}'])
def test_damage_beside_the_results_is_not_handed_on(
    tmp_path: Path, name: str, content: bytes
) -> None:
    """What `export` seals anew would be taken for whole."""
    fill(tmp_path / "a")
    path = tmp_path / "a" / name
    path.parent.mkdir()
    path.write_bytes(content)
    for make in (sb.merge, sb.export):
        with pytest.raises(DataError, match=f"{name}.*Nothing is merged. Remove that file"):
            make(tmp_path / "a", out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_files_of_one_name_and_other_content_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fill(tmp_path / name)
        write_json(tmp_path / name / "episodes" / "t-1.json", {"who": name})
    with pytest.raises(DataError, match=r"something else than episodes/t-1\.json"):
        sb.merge([tmp_path / "a", tmp_path / "b"], out=tmp_path / "out")


PATHS = {
    "/data/x/y.csv": "y.csv",
    "/data": "data",
    "/with space/my table.csv": "my table.csv",
    "~/x/y": "y",
    r"C:\people\me\t.csv": "t.csv",
    r"\\host\share\t.csv": "t.csv",
    "no such file '/data/me/a b/c.svs'. Check": None,
    "cannot read /data/me/c.svs: bad": "cannot read c.svs: bad",
    "see https://example.org/a/b and conch/v1, 1/2/3 or and/or": None,
    "data/tables/x.csv": None,
    "cannot read '/mnt2/Lung Cohort/Dr Smith/x.h5'": "cannot read 'x.h5'",
    "task hest:/data/us/IDC, file:///data/us/a.csv": "task hest:IDC, file:a.csv",
}


@pytest.mark.parametrize("text", PATHS)
def test_paths_are_cut_to_their_last_part(text: str) -> None:
    wanted = PATHS[text]
    found = scrubbed({"a": [text]})["a"][0]
    assert not absolute_paths(found)
    assert "/data" not in found
    if wanted is not None:
        assert found == wanted
    elif "/data" not in text:
        assert found == text


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of results whose settings and errors are full of paths."""
    base = tmp_path_factory.mktemp("secret-place")
    rows = fill(base / "runs")
    failed = replace(
        rows[0], run_id="f", draw=9, status="failed", predictions_sha256="",
        error=f"No such file {base}/features/slide.h5. Make it",
    )  # fmt: skip
    ResultStore(base / "runs").append([failed])
    task = {"name": "t", "table": f"{base}/tables/my table.csv"}
    write_json(
        base / "runs" / "configs" / "run-1.json",
        {
            "encoders": [
                {"name": "uni", "label": "uni", "weights": f"{base}/w.bin", "options": {}}
            ],
            "tasks": [task],
            "heads": {"logistic": {}},
            "features": {"uni": f"{base}/features"},
            "any_features": r"C:\people\me\features",
        },
    )
    (base / "runs" / "heads" / "uni-0").mkdir(parents=True)
    (base / "runs" / "heads" / "uni-0" / "head.json").write_text("{}")
    made = sb.export(base / "runs", out=base / "results.zip")
    assert made.cells == 3
    return made.file


def test_an_export_is_whole_and_names_no_place(exported: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(exported) as archive:
        names = archive.namelist()
        content = {name: archive.read(name) for name in names}
    manifest = json.loads(content[MANIFEST])
    assert manifest["schema"] == "spade-bench/export/1"
    assert {one["path"] for one in manifest["files"]} == set(names) - {MANIFEST}
    for one in manifest["files"]:
        assert hashlib.sha256(content[one["path"]]).hexdigest() == one["sha256"]
    assert {"results.jsonl", "report.html", "licences.json", "references.bib",
            "environment.json"} <= set(names)  # fmt: skip
    assert any(name.startswith("cards/encoder-") for name in names)
    assert not any(name.startswith("heads/") for name in names)
    for name, data in content.items():
        for place in (b"secret-place", str(tmp_path.parent).encode(), b"Users"):
            assert place not in data, name
        if name.endswith((".json", ".jsonl")):
            assert absolute_paths(data.decode()) == [], name
    (settings,) = (name for name in names if name.startswith("configs/run-"))
    assert settings != "configs/run-1.json"  # which names what it held before
    assert '"table": "my table.csv"' in content[settings].decode()


def test_an_import_is_what_was_exported(exported: Path, tmp_path: Path) -> None:
    results = sb.import_results(exported, out=tmp_path / "in")
    before = sb.load_results(exported.parent / "runs")
    assert results.problems == []
    assert results.leaderboard().equals(before.leaderboard())
    assert results.predictions().equals(before.predictions())
    with pytest.raises(UserError, match="is there already"):
        sb.import_results(exported, out=tmp_path / "in")


def rewritten(source: Path, target: Path, change: Callable[[dict[str, bytes]], Any]) -> Path:
    """Write an export again with other members; the manifest is what the change leaves."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target


def listing(members: dict[str, bytes], name: str, content: bytes) -> None:
    """Add a member that the manifest speaks of."""
    manifest = json.loads(members[MANIFEST])
    digest = hashlib.sha256(content).hexdigest()
    manifest["files"].append({"path": name, "bytes": len(content), "sha256": digest})
    members[MANIFEST] = json.dumps(manifest).encode()
    members[name] = content


def edited(members: dict[str, bytes]) -> None:
    content = bytearray(members["results.jsonl"])
    content[40] ^= 1
    members["results.jsonl"] = bytes(content)


def manifested(members: dict[str, bytes], **said: Any) -> None:
    """Say something else of the first file in the manifest."""
    manifest = json.loads(members[MANIFEST])
    manifest["files"][0] |= said
    members[MANIFEST] = json.dumps(manifest).encode()


def replaced(members: dict[str, bytes], name: str, content: bytes) -> None:
    """Put something else in the place of a member, as if the export had held it."""
    manifest = json.loads(members[MANIFEST])
    manifest["files"] = [one for one in manifest["files"] if one["path"] != name]
    members[MANIFEST] = json.dumps(manifest).encode()
    listing(members, name, content)


def forged(members: dict[str, bytes]) -> None:
    """Change a number in a row, and let the manifest fit."""
    changed = members["results.jsonl"].replace(b'"draw": 0', b'"draw": 9', 1)
    assert changed != members["results.jsonl"]
    replaced(members, "results.jsonl", changed)


def robbed(members: dict[str, bytes]) -> None:
    """Leave out the predictions, in the manifest too."""
    manifest = json.loads(members[MANIFEST])
    kept = [one for one in manifest["files"] if not one["path"].startswith("predictions/")]
    for one in manifest["files"]:
        if one not in kept:
            del members[one["path"]]
    members[MANIFEST] = json.dumps({**manifest, "files": kept}).encode()


BAD: dict[str, tuple[Callable[[dict[str, bytes]], Any], str]] = {
    "file below a file": (lambda m: listing(m, "Report.html/x", b"x"), "lies below a file"),
    "file that is a folder": (
        lambda m: (listing(m, "a/b/c", b"x"), listing(m, "A", b"x")),
        "lies below a file",
    ),
    "long part": (lambda m: listing(m, "é" * 130, b"x"), "no name of a file"),
    "long path": (lambda m: listing(m, "/".join(["d" * 50] * 30), b"x"), "no name of a file"),
    "no part": (lambda m: listing(m, "a//b", b"x"), "no name of a file"),
    "endless": (lambda m: manifested(m, bytes=float("inf")), "does not list files"),
    "half a byte": (lambda m: manifested(m, bytes=1.5), "does not list files"),
    "no path": (lambda m: manifested(m, path=None), "does not list files"),
    "forged": (forged, "bad.zip: results.jsonl line 1: edited after it was written.*nothing was"),
    "no rows": (lambda m: replaced(m, "results.jsonl", b""), "holds no results"),
    "robbed": (robbed, "bad.zip: .*no predictions for a finished row.*nothing was kept"),
    "parent": (lambda m: listing(m, "../evil.txt", b"x"), "no name of a file in a folder"),
    "deep parent": (lambda m: listing(m, "a/../../evil", b"x"), "no name of a file"),
    "absolute": (lambda m: listing(m, "/tmp/evil.txt", b"x"), "no name of a file"),
    "drive": (lambda m: listing(m, "C:/evil.txt", b"x"), "no name of a file"),
    "backslash": (lambda m: listing(m, "a\\..\\evil", b"x"), "no name of a file"),
    "hidden": (lambda m: listing(m, ".bashrc", b"x"), "no name of a file"),
    "control": (lambda m: listing(m, "a\n.txt", b"x"), "no name of a file"),
    "folder": (lambda m: m.update({"empty/": b""}), "no name of a file"),
    "case": (lambda m: listing(m, "RESULTS.jsonl", b"x"), "stands there twice"),
    "bomb": (lambda m: listing(m, "plots/x.bin", b"\0" * 50_000_000), "more than|beyond all"),
    "unlisted": (lambda m: m.update({"extra.txt": b"x"}), "not in the manifest"),
    "absent": (lambda m: m.pop("report.html"), "'report.html' is absent"),
    "edited": (edited, "its checksum does not fit"),
    "longer": (lambda m: m.update({"report.html": b"x"}), "another size than the manifest"),
    "no manifest": (lambda m: m.pop(MANIFEST), "holds no manifest.json"),
    "other schema": (lambda m: m.update({MANIFEST: b'{"schema": "x"}'}), "has schema 'x'"),
    "odd manifest": (
        lambda m: m.update({MANIFEST: b'{"schema": "spade-bench/export/1", "files": [3]}'}),
        "does not list files",
    ),
    "no json": (lambda m: m.update({MANIFEST: b"{"}), "not valid JSON"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_zip_is_refused_and_nothing_is_left(
    kind: str, exported: Path, tmp_path: Path
) -> None:
    change, said = BAD[kind]
    bad = rewritten(exported, tmp_path / "bad.zip", change)
    with pytest.raises(DataError, match=said):
        sb.import_results(bad, out=tmp_path / "in", max_gb=0.04)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.zip"]


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(mode: int, exported: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.zip"
    shutil.copyfile(exported, bad)
    members: dict[str, bytes] = {MANIFEST: zipfile.ZipFile(bad).read(MANIFEST)}
    listing(members, "plots/link", b"/etc/passwd")
    with zipfile.ZipFile(exported) as old, zipfile.ZipFile(bad, "w") as new:
        for name in old.namelist():
            new.writestr(name, members.get(name, old.read(name)))
        link = zipfile.ZipInfo("plots/link")
        link.external_attr = (mode | 0o777) << 16
        new.writestr(link, members["plots/link"])
    with pytest.raises(DataError, match="a link or a device"):
        sb.import_results(bad, out=tmp_path / "in")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no zip at all" * 50])
def test_what_is_no_zip_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(DataError, match="not a zip file"):
        sb.import_results(tmp_path / "bad.zip", out=tmp_path / "in")
    with pytest.raises(DataError, match="no such file"):
        sb.import_results(tmp_path / "absent.zip", out=tmp_path / "in")


def test_a_cut_zip_is_refused(exported: Path, tmp_path: Path) -> None:
    content = exported.read_bytes()
    for keep in (len(content) // 2, len(content) - 30):
        (tmp_path / "bad.zip").write_bytes(content[:keep])
        with pytest.raises(DataError, match="not a zip file"):
            sb.import_results(tmp_path / "bad.zip", out=tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_the_commands_say_what_they_did(tmp_path: Path, capsys: Any) -> None:
    fill(tmp_path / "a")

    def command(*arguments: str) -> dict[str, Any]:
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, "--json"])
        assert not stopped.value.code
        content: dict[str, Any] = json.loads(capsys.readouterr().out)
        return content

    a, joined, file, back = (str(tmp_path / name) for name in ("a", "b", "c.zip", "d"))
    assert command("merge", a, "--out", joined)["cells"] == 3
    assert command("export", joined, "--out", file)["cells"] == 3
    answer = command("import", file, "--out", back)
    assert (answer["schema"], answer["cells"]) == ("spade-bench/import/1", 3)


def test_heads_of_a_stranger_are_taken_from_their_folder_alone(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "id").write_text("k")
    fill(tmp_path / "in", "conch", range(1), run_id="../../secret")
    (tmp_path / "in" / "heads").mkdir()
    sb.merge([tmp_path / "in"], out=tmp_path / "o" / "out")
    assert not list((tmp_path / "o").rglob("id"))


def test_an_export_is_merged_with_what_it_was_made_of(tmp_path: Path) -> None:
    for name, draws in (("a", range(2)), ("b", range(2, 4))):
        fill(tmp_path / name, draws=draws)
        content = {"encoders": [], "tables": {"t": "/data/hospital/t.csv"}}
        write_json(tmp_path / name / "configs" / "run-abcdef01.json", content)
    sb.export(tmp_path / "b", out=tmp_path / "b.zip")
    sb.import_results(tmp_path / "b.zip", out=tmp_path / "c")
    sb.merge([tmp_path / "a", tmp_path / "c"], out=tmp_path / "both")
    assert set(told(tmp_path / "both")) == {f"uni-{draw}" for draw in range(4)}


def test_names_with_odd_spaces_come_back(tmp_path: Path) -> None:
    fill(tmp_path / "a", "uni\u00a0")
    sb.export(tmp_path / "a", out=tmp_path / "a.zip")
    sb.import_results(tmp_path / "a.zip", out=tmp_path / "b")
    assert told(tmp_path / "b") == told(tmp_path / "a")
