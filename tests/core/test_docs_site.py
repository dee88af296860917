"""The hooks of the site: tutorials that run, and formulas without a script."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOOKS = ROOT / "docs" / "hooks"
PAGE = """# A page

```bash
echo one; echo two
```

Text between.

```python
import os

import pandas as pd

print(sorted(os.listdir()))
pd.DataFrame({"a": [1]})
```

```python
import matplotlib.pyplot as plt

lines = plt.plot([1, 2])
```
"""
FAILING = ("```bash\nfalse\necho later\n```\n", "```python\n1 / 0\n```\n")
# In a process of its own: kernels leave sockets that this suite would complain of.
SCRIPT = """
import json, sys
from pathlib import Path
import tutorials
from mkdocs.exceptions import PluginError
out = []
for text in json.loads(sys.argv[1]):
    try:
        page, pictures = tutorials.run_page(text, "tutorials/A.md", Path.cwd())
        out.append([page, sorted(pictures)])
    except PluginError as error:
        out.append(str(error))
print(json.dumps(out))
"""


def hook(name: str) -> ModuleType:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    spec = importlib.util.spec_from_file_location(f"docs_{name}", HOOKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_page_shows_what_its_cells_print_and_a_failing_cell_fails(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    (tmp_path / "data").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([PAGE, *FAILING])],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(HOOKS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (page, pictures), *failed = json.loads(done.stdout.splitlines()[-1])
    assert "```text\none\ntwo\n```" in page  # pieces of a stream are one output
    assert "['data']" in page
    assert "<td>1</td>" in page
    assert "set -euo" not in page
    assert page.index("one\ntwo") < page.index("Text between.") < page.index("['data']")
    assert pictures == ["tutorials/A_files/1.png"]
    assert "](A_files/1.png)" in page
    assert ["tutorials/A.md" in text for text in failed] == [True, True], failed
    assert "ZeroDivisionError" in failed[1]


def test_the_navigation_gives_the_order_of_tutorials() -> None:
    nav = [{"Home": "index.md"}, {"T": ["tutorials/B.md", {"x": "tutorials/A.md"}, "C.md"]}]
    assert hook("tutorials").tutorial_pages(nav) == ["tutorials/B.md", "tutorials/A.md"]


def test_formulas_become_mathml_and_links_lead_to_the_sites_own_pages() -> None:
    pages = hook("pages")
    html = pages.on_page_content('<p><span class="arithmatex">\\(x &lt; \\frac{1}{2}\\)</span></p>')
    assert "<math" in html
    assert "<mfrac>" in html
    assert "arithmatex" not in html
    assert pages.on_page_markdown("[a](../CHANGELOG.md#b)") == "[a](CHANGELOG.md#b)"
