"""The fixture itself: it sees what a page must not do."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

_BAD = {
    "console": ("<script>console.error('broken')</script>", "console error: broken"),
    "script": ("<script>nothing.here()</script>", "script error: nothing is not defined"),
    "network": ("<img src='http://example.org/a.png'>", "asked a network for http://example"),
    "dialog": ("<script>alert(1)</script>", "dialog: 1"),
    "file": ("<script src='absent.js'></script>", "not loaded: file:"),
}


def test_what_a_page_must_not_do_is_seen(pytester: pytest.Pytester) -> None:
    pytester.makeconftest((Path(__file__).parent / "conftest.py").read_text(encoding="utf-8"))
    pytester.makeini("[pytest]\nmarkers = browser: opens a page")
    for name, markup in [("good", ""), *((name, bad) for name, (bad, _) in _BAD.items())]:
        (pytester.path / f"{name}.html").write_text(f"<!doctype html><p>x</p>{markup}")
    pytester.makepyfile(
        "import pytest\n"
        f"@pytest.mark.parametrize('name', {['good', *_BAD]!r})\n"
        "def test_page(open_page, request, name):\n"
        "    page = open_page(request.config.rootpath / f'{name}.html')\n"
        "    page.wait_for_timeout(100)\n"
    )
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-rE")
    counted = done.parseoutcomes()
    if "skipped" in counted:
        pytest.skip("no browser")
    assert counted == {"passed": 1 + len(_BAD), "errors": len(_BAD)}  # each error at a teardown
    text = done.stdout.str()
    for name, (_, said) in _BAD.items():
        assert f"[{name}]" in text
        assert said in text, name
    assert "ERROR at teardown of test_page[good]" not in text
