"""The report as a person uses it: opened, sorted, searched, unfolded, read and printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from page_results import HOSTILE, HOSTILE_CASE, HOSTILE_TASK, SITES, write_hostile_results

import spade_bench as sb
from spade_bench.report.naming import encoder_title, head_title

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
PHONE = (390, 844)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    out = write_hostile_results(folder / "runs")
    maps = folder / "maps"
    maps.mkdir()
    (maps / "case-03-s.png").write_bytes(b"")
    path = folder / "report.html"
    sb.load_results(out).to_html(path, maps=maps)
    return path


def rows(page: Page, table: int = 0) -> list[list[str]]:
    """Cells of the visible rows of a leaderboard table."""
    found: list[list[str]] = page.evaluate(
        """(at) => [...document.querySelectorAll(".standing")[at].querySelectorAll("tbody tr")]
        .map((row) => [...row.cells].map((cell) => cell.innerText.trim()))""",
        table,
    )
    return found


def few_shot(page: Page) -> int:
    titles: list[str] = page.locator(".standing h3").all_inner_texts()
    return next(i for i, title in enumerate(titles) if "few-shot" in title)


def means(page: Page, table: int, column: int = 2) -> list[float]:
    cells = [row[column] for row in rows(page, table)]
    assert [cell for cell in cells if cell == "failed"] == cells[-1:], "what is missing stays last"
    return [float(cell.split()[0]) for cell in cells[:-1]]


def test_it_opens_from_a_file_with_the_verdict_first(open_page: Any, report: Path) -> None:
    page = open_page(report)
    assert page.locator("main > section").first.get_attribute("id") == "verdict"
    assert HOSTILE in page.locator("h1").inner_text()
    assert page.locator(".verdict .lead").first.inner_text()
    assert report.stat().st_size < 3_000_000
    for link in page.locator("nav a").all():
        assert page.locator(f"section{link.get_attribute('href')}").count() == 1


def test_names_of_strangers_stay_text(open_page: Any, report: Path) -> None:
    page = open_page(report)  # a dialog, an error or a request would fail when the test ends
    page.locator("#unfold").click()
    page.locator("#pick-shot").select_option("each")
    assert page.locator("main script, main iframe, main img, main u, main i").count() == 0
    assert page.locator("[onerror], [onmouseover]").count() == 0
    text = page.evaluate("document.body.textContent")
    for name in (HOSTILE, HOSTILE_TASK, SITES[1]):
        assert name in text
    assert "[object" not in text
    assert HOSTILE_CASE in text


def test_controls_are_folded_below_their_encoder(open_page: Any, report: Path) -> None:
    page = open_page(report)
    at = few_shot(page)
    folded = rows(page, at)
    assert all("control" not in row for row in page.evaluate(
        "[...document.querySelectorAll('.standing tbody tr')].map((row) => row.className)"
    ))  # fmt: skip
    button = page.locator(".standing").nth(at).locator(".more").first
    assert button.get_attribute("aria-expanded") == "false"
    button.click()
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    opened = rows(page, at)
    assert len(opened) == len(folded) + 2
    assert "k1" in opened[1][0] or "permuted-labels" in opened[1][0]
    page.locator(".standing").nth(at).locator(".more").first.click()
    assert rows(page, at) == folded
    page.locator("#unfold").click()
    assert len(rows(page, at)) == len(folded) + 4
    assert page.locator("#count").inner_text() == "{0} of {0} rows".format(
        sum(len(rows(page, i)) for i in range(page.locator(".standing").count()))
    )


def test_sorting_orders_the_rows_and_says_so(open_page: Any, report: Path) -> None:
    page = open_page(report)
    at = few_shot(page)
    table = page.locator(".standing").nth(at)
    first = means(page, at)
    assert first == sorted(first, reverse=True), "the best first, unless asked"
    table.locator("th .sort").nth(2).click()
    assert means(page, at) == sorted(first, reverse=True)
    assert table.locator("th").nth(2).get_attribute("aria-sort") == "descending"
    table.locator("th .sort").nth(2).click()
    assert means(page, at) == sorted(first)
    assert table.locator("th").nth(2).get_attribute("aria-sort") == "ascending"
    assert table.locator("th").nth(0).get_attribute("aria-sort") == "none"
    table.locator("th .sort").nth(1).press("Enter")
    heads = [row[1] for row in rows(page, at)]
    assert heads == sorted(heads)
    assert len(set(heads)) == 3
    assert page.evaluate("document.activeElement.dataset.by") == "head"
    page.locator("#pick-metric").select_option("brier")  # less is better: the least first
    table.locator("th .sort").nth(2).click()
    scores = means(page, at)
    assert scores == sorted(scores)
    page.locator("#unfold").click()
    classes = table.locator("tbody tr").evaluate_all("(all) => all.map((row) => row.className)")
    assert classes[0] == "main"
    assert classes.count("control") == 4, "controls go with their encoder"


def test_metric_shots_head_task_and_search_choose_rows(open_page: Any, report: Path) -> None:
    page = open_page(report)
    at = few_shot(page)
    results = sb.load_results(report.parent / "runs")
    board = results.leaderboard("balanced_accuracy")
    page.locator("#pick-metric").select_option("balanced_accuracy")
    page.locator("#pick-shot").select_option("4")
    shown = {
        (row[0].partition("\n")[0].partition("+ ")[0].strip(), row[1]): row[2]
        for row in rows(page, at)
        if row[2] != "failed"
    }
    wanted = board[(board["k_shot"] == 4) & (board["control"] == "") & board["mean"].notna()]
    assert len(wanted) == len(shown) == 4
    for row in wanted.itertuples():
        value = shown[encoder_title(row.encoder), head_title(row.head)]
        assert value.split()[0] == f"{row.mean:.3f}"
        assert f"[{row.ci_low:.3f}, {row.ci_high:.3f}]" in value
    visible = page.locator(".standing:visible h3").all_inner_texts()
    assert len(visible) == 1, "survival has no such metric"

    page.locator("#pick-shot").select_option("each")
    heading = page.locator(".standing").nth(at).locator("thead th").all_inner_texts()
    assert [text.strip() for text in heading[2:5]] == ["k=1", "k=4", "k=8"]
    page.locator("#pick-head").select_option("abmil")
    assert {row[1] for row in rows(page, at)} == {head_title("abmil")}
    page.locator("#search").fill("UNI")
    assert [row[0].split("\n")[0] for row in rows(page, at)] == ["UNI"]
    page.locator("#search").fill("permuted-labels")
    found = rows(page, at)
    assert len(found) == 2, "the control, and the encoder it stands below"
    page.locator("#search").fill("nobody of this name")
    assert rows(page, at) == [["No row fits the search."]]
    assert page.locator("#count").inner_text().startswith("0 of")
    page.locator("#search").fill("")
    page.locator("#pick-head").select_option("")
    page.locator("#pick-metric").select_option("")
    page.locator("#pick-task").select_option("survival")
    assert len(page.locator(".standing:visible").all()) == 1


def test_flags_say_what_they_mean_on_hover_and_focus(open_page: Any, report: Path) -> None:
    page = open_page(report)
    tip = page.locator("#tip")
    flag = page.locator(".standing .about .flag").first
    assert not tip.is_visible()
    flag.hover()
    assert tip.inner_text() == "simulated data, not patients"
    page.mouse.move(0, 0)
    assert not tip.is_visible()
    flag.focus()
    assert tip.is_visible()
    assert flag.get_attribute("aria-describedby") == "tip"
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_everything_can_be_reached_by_keyboard_and_is_seen(open_page: Any, report: Path) -> None:
    page = open_page(report)
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        state = page.evaluate(
            """() => { const one = document.activeElement; const style = getComputedStyle(one);
            return [one.id || one.className || one.tagName, style.outlineStyle, one.innerText]; }"""
        )
        reached.add(str(state[0]))
        assert state[1] != "none", f"{state} has no visible focus"
    assert {"theme", "pick-metric", "search", "unfold", "sort", "more", "flag"} <= reached
    summary = page.locator("#differences summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator("#differences details").first.get_attribute("open") is not None


def test_the_first_view_is_the_same_without_scripts(browser: Any, report: Path) -> None:
    found = []
    for scripts in (True, False):
        context = browser.new_context(java_script_enabled=scripts, offline=True)
        page = context.new_page()
        page.goto(report.as_uri())
        if scripts:
            page.locator("#unfold").click()
        texts = page.locator(".standing tbody tr").all_text_contents()
        found.append([re.sub(r"[−+] \d controls?|\s+", "", text) for text in texts])
        assert page.locator("#choose").is_visible() == scripts
        context.close()
    assert found[0] == found[1]
    assert len(found[0]) > 8


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_follow_the_system_and_the_switch(
    open_page: Any, report: Path, dark: bool
) -> None:
    page = open_page(report, dark=dark)

    def brightness(what: str, of: str) -> float:
        text: str = page.evaluate(f"getComputedStyle(document.querySelector('{of}')).{what}")
        red, green, blue = (float(part) for part in re.findall(r"[\d.]+", text)[:3])
        return (0.3 * red + 0.6 * green + 0.1 * blue) / 255

    assert (brightness("backgroundColor", "body") < 0.3) == dark
    assert abs(brightness("color", "body") - brightness("backgroundColor", "body")) > 0.7
    assert abs(brightness("fill", ".drawing text") - brightness("backgroundColor", "body")) > 0.7
    page.locator("#theme").click()  # light
    assert brightness("backgroundColor", "body") > 0.9
    page.locator("#theme").click()  # dark
    assert brightness("backgroundColor", "body") < 0.3
    assert brightness("fill", ".drawing text") > 0.8
    page.locator("#theme").click()
    assert (brightness("backgroundColor", "body") < 0.3) == dark


def test_a_phone_shows_everything_without_scrolling_aside(open_page: Any, report: Path) -> None:
    page = open_page(report, size=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    assert page.evaluate(
        """() => [...document.querySelectorAll("main *")].filter((one) =>
        !one.closest(".scroll, svg, pre") && one.getBoundingClientRect().right > innerWidth + 1)
        .map((one) => one.outerHTML.slice(0, 80))"""
    ) == []  # fmt: skip
    for box in page.locator(".scroll").all():
        assert box.get_attribute("tabindex") == "0"
    page.locator(".standing th .sort").first.click()
    assert rows(page)


def test_on_paper_nothing_is_folded(open_page: Any, report: Path) -> None:
    page = open_page(report)
    closed = page.locator("details:not([open])").count()
    assert closed > 3
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert page.locator(".standing tr.control").count() > 0
    for hidden in (".top", "#choose", ".more"):
        assert not page.locator(hidden).first.is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() == closed
    assert page.locator(".standing tr.control").count() == 0
    pages = page.pdf(format="A4").count(b"/Type /Page\n")
    assert 3 <= pages <= 40


def test_worst_cases_are_linked_to_their_maps(open_page: Any, report: Path) -> None:
    page = open_page(report)
    links = page.locator("#cases a")
    for link in links.all():
        assert link.get_attribute("href") == "maps/case-03-s.png"
        assert (report.parent / "maps" / "case-03-s.png").exists()
    listed = "case-03" in page.locator("#cases").inner_text()
    assert (links.count() > 0) == listed
