"""What results rest on: BibTeX that parses, licences from cards, each once."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spade_bench as sb
from spade_bench.cli.main import main
from spade_bench.cohorts.contamination import LEDGER
from spade_bench.files import write_json
from spade_bench.registry import encoders
from spade_bench.report.literature import citations
from spade_bench.report.literature.papers import DATA_PAPERS, PAPERS
from spade_bench.report.page import usedcards
from spade_bench.results.plans import write_plan
from spade_bench.results.runsettings import stored_settings
from spade_bench.types import EncoderCard, TaskCard


@pytest.fixture
def out(store: Any, classes: Any, tmp_path: Path) -> Path:
    label = (np.arange(40) % 2).astype(int)
    p = np.random.default_rng(0).uniform(size=40)
    for encoder in ("uni", "uni-east", "mine_50%"):
        store(tmp_path, {"encoder": encoder, "task": "crc_braf"}, classes(p, label))
    more = {"control": "pca", "control_of": "uni", "flags": ("control:pca",)}
    store(tmp_path, {"encoder": "uni+pca8", "task": "crc_braf"}, classes(p, label), **more)
    return tmp_path


def _entries(text: str) -> dict[str, dict[str, str]]:
    """Read BibTeX as these entries are written: a field per line, braces balanced."""
    found = {}
    for block in text.strip().split("\n\n"):
        head, *lines, end = block.splitlines()
        kind = re.fullmatch(r"@(article|misc|software)\{([A-Za-z0-9_.:-]+),", head)
        assert kind is not None, head
        assert end == "}"
        bare = re.sub(r"\\[{}]", "", block)
        assert bare.count("{") == bare.count("}")
        fields = [re.fullmatch(r"  (\w+) = \{(.*)\},", line) for line in lines]
        assert all(fields)
        found[kind[2]] = {one[1]: one[2] for one in fields if one is not None}
    return found


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit, match="0"):
        main(["cite", *arguments])
    return capsys.readouterr().out


def test_everything_used_is_listed_once(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(_run(capsys, str(out), "--json"))
    assert told["schema"] == "spade-bench/cite/1"
    assert [(one["kind"], one["name"]) for one in told["used"]] == [
        ("encoder", "mine_50%"),
        ("encoder", "uni"),
        ("head", "logistic"),
        ("task", "crc_braf"),
        ("data", "TCGA"),
    ]
    by_name = {one["name"]: one for one in told["used"]}
    card = encoders.get("uni").card
    assert by_name["uni"]["licence"] == card.licence
    assert by_name["uni"]["gated"] is True
    assert by_name["mine_50%"]["licence"] == "unknown"
    assert "GDC portal" in by_name["crc_braf"]["licence"]
    entries = _entries(told["bibtex"])
    assert entries["uni"] == {
        "author": "Chen, Richard J. and Ding, Tong and Lu, Ming Y. and others",
        "title": "{Towards a general-purpose foundation model for computational pathology}",
        "journal": "Nature Medicine",
        "year": "2024",
        "doi": "10.1038/s41591-024-02857-3",
    }
    assert entries["data-TCGA"] == {
        "author": "Weinstein, John N. and Collisson, Eric A. and Mills, Gordon B. and others",
        "title": "{The Cancer Genome Atlas Pan-Cancer analysis project}",
        "year": "2013",
        "journal": "Nature Genetics",
        "doi": "10.1038/ng.2764",
    }
    assert {one["key"] for one in told["used"] if one["key"]} | {"spade-bench"} == set(entries)


@pytest.mark.parametrize("missing", [False, True])
def test_simulated_results_have_no_terms_of_others(
    store: Any, classes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: bool
) -> None:
    label = (np.arange(40) % 2).astype(int)
    p = np.random.default_rng(0).uniform(size=40)
    store(tmp_path, {"encoder": "uni", "task": "crc_braf"}, classes(p, label), flags=("simulated",))
    if missing:  # another head, whose only cell was asked for and is not there
        write_plan(tmp_path, "crc_braf", {"uni, mean-mlp": ["absent"]})
    told = json.loads(_run(capsys, str(tmp_path), "--json"))
    by_kind = {one["kind"]: one for one in told["used"]}
    for kind in ("task", "data"):
        assert "simulated" in by_kind[kind]["licence"]
    assert by_kind["data"]["name"] == "simulated"
    assert "GDC" not in json.dumps(told)
    assert "Cancer Genome Atlas" not in told["bibtex"]


def test_every_data_set_of_the_ledger_has_its_paper() -> None:
    assert set(LEDGER) == set(DATA_PAPERS)


@pytest.mark.parametrize("paper", PAPERS)
def test_every_paper_is_that_of_a_card_whose_entry_has_its_authors_and_title(paper: str) -> None:
    def first_paper(text: str) -> str | None:
        return min((one for one in PAPERS if one in text), key=text.index, default=None)

    cards = [plugin.card for plugin in encoders if first_paper(plugin.card.reference) == paper]
    assert cards, "no card refers to it"
    for card in cards:
        first = card.reference.split(" et al.")[0]
        if " et al." in card.reference:  # the first author of the card is that of the paper
            assert PAPERS[paper].authors.startswith(f"{first},")
        (entry,) = _entries(citations.entry_of(card)).values()
        assert entry["title"] == f"{{{PAPERS[paper].title}}}"
        assert entry["year"]
        assert paper in (entry.get("doi"), entry.get("eprint"))


def test_text_has_entries_and_the_table(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = _run(capsys, str(out))
    assert "@article{uni," in text
    assert "CC-BY-NC-ND-4.0" in text
    file = out / "references.bib"
    assert "@article" not in _run(capsys, str(out), "--out", str(file))
    assert set(_entries(file.read_text())) == {
        "uni", "logistic", "data-TCGA", "spade-bench"
    }  # fmt: skip


def test_labels_and_yaml_tasks_are_what_the_run_stored_here_and_on_the_page(
    store: Any, classes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label = (np.arange(40) % 2).astype(int)
    p = np.random.default_rng(0).uniform(size=40)
    store(tmp_path, {"encoder": "ours", "task": "grade"}, classes(p, label))
    card = TaskCard("grade", "classification", "Grade of our clinic", "clinic",
                    sources=("Clinic",), data="Ask the clinic; no redistribution.")  # fmt: skip
    content = {
        "encoders": [{"name": "efficientnet-lite0", "label": "ours", "options": {}}],
        "tasks": [{**asdict(card), "table": "grade.csv"}],
    }
    write_json(tmp_path / "configs" / "run-1.json", content)
    told = {one["kind"]: one for one in json.loads(_run(capsys, str(tmp_path), "--json"))["used"]}
    known = encoders.get("efficientnet-lite0").card
    assert told["encoder"]["name"] == "efficientnet-lite0"
    assert told["encoder"]["licence"] == known.licence != "unknown"
    assert told["task"]["title"] == "Grade of our clinic"
    assert told["task"]["licence"] == card.data
    assert (told["data"]["name"], told["data"]["licence"]) == ("Clinic", "see grade")
    results = sb.load_results(tmp_path)
    settings = stored_settings(results.folders, results.problems)
    (encoder,) = usedcards.used_encoders(results, settings)
    assert (encoder.label, encoder.name, encoder.card) == ("ours", known.name, known)
    (task,) = usedcards.used_tasks(results, settings)
    assert task.card["title"] == card.title


def test_damaged_settings_are_named(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "configs").mkdir()
    (out / "configs" / "run-1.json").write_text("{")
    with pytest.raises(SystemExit, match="2"):
        main(["cite", str(out)])
    assert "run-1.json" in capsys.readouterr().err


@pytest.mark.parametrize("name", [plugin.name for plugin in encoders])
def test_every_card_makes_an_entry_that_keeps_its_reference(name: str) -> None:
    card = encoders.get(name).card
    item = citations._encoder(name)
    assert item.licence == (card.licence or "unknown")
    if card.reference == "baseline":
        assert not item.bibtex
        return
    ((key, fields),) = _entries(item.bibtex).items()
    assert key == item.key
    whole = " ".join(fields.values())
    for number in re.findall(r"10\.\d{4}/[\w./-]*\w|\d{4}\.\d{4,5}(?!\.)", card.reference):
        assert number in whole
    assert re.search(r"[A-Za-z]", fields["title"])


def test_an_entry_of_the_card_comes_first() -> None:
    from spade_bench.registry import encoders as registry

    text = "@article{mine,\n  title = {Mine},\n}"
    card = EncoderCard("cited-by-itself", "image", 8, "x", reference="A et al., B 2020",
                       bibtex=text)  # fmt: skip
    registry.add(card, lambda options: None)
    try:
        assert citations._encoder("cited-by-itself").bibtex == text
        assert citations._encoder("cited-by-itself").key == "mine"
    finally:
        del registry._plugins["cited-by-itself"]
