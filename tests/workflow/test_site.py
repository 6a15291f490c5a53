"""The documentation site's own pages, and the two that a newcomer follows to the letter: tutorial and notebook."""

from __future__ import annotations

import inspect
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import s4s
from s4s.textbook import SOLVERS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        return runpy.run_path(str(ROOT / "tools/site.py"))


def places(part: Any) -> Iterator[str]:
    """The pages of a navigation."""
    for item in part.values() if isinstance(part, dict) else part:
        yield from [item] if isinstance(item, str) else places(item)


def test_the_navigation_leads_to_every_page(site: dict[str, Any]) -> None:
    own = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    made = {name for name in site["pages"]() if name.endswith(".md")}
    shown = list(places(site["settings"]()["nav"]))
    notes = {name for name in own if re.match(r"notes/2", name)}  # listed by their own page
    assert sorted(shown) == sorted({*shown}), "a page stands twice in mkdocs.yml"
    assert {*shown} == (own | made) - notes


def test_every_solver_has_its_page(site: dict[str, Any]) -> None:
    pages = site["pages"]()
    for name, function in SOLVERS.items():
        page, solver = pages[f"solvers/{name}.md"], site["example"](name)
        assert solver.nfe == (6 if name == "heun" else 5)
        assert (
            f"{solver.weight[-1, -1]:+.5f}" in page and f">{solver.weight[-1, -1]:+.2f}<" in pages[f"images/{name}.svg"]
        )
        assert (function.__doc__ or "").split("(")[0] in page, "its citation"
        assert len(re.findall(rf"^\| {name}[\d-]* ?.*\| [12345] \|", page, flags=re.M)) >= 1, "its order"
        assert inspect.getsource(function) in page
        assert all(f"`{option}`" in page for option in s4s.solvers()[name])


def test_the_reference_is_all_that_is_public(site: dict[str, Any]) -> None:
    pages = site["pages"]()
    shown = re.findall(r"^::: s4s\.(?:\w+\.)*(\w+)$", pages["reference/python.md"], flags=re.M)
    assert {*s4s.__all__} - {"__version__"} <= {*shown} and len(shown) == len({*shown}) > 40
    commands = pages["reference/commands.md"]
    assert "## s4s show\n" in commands and "Usage: s4s show" in commands
    assert "## s4s import ld3\n" in commands and "Usage: s4s zoo save" in commands


LINKS = {
    "reproduce.md": ("[x](../results/README.md) [models.md](models.md#your-own)", "x [models](models.md#your-own)"),
    "solvers/ddim.md": ("[x](../table.md)", "[x](../table.md)"),
    "notes/2.md": ("![x](../images/radius.png) [y](../fitting.md)", "![x](../images/radius.png) [y](../fitting.md)"),
    "project/contributing.md": (
        "[a](docs/table.md) [b](LICENSE) [c](README.md#x)",
        "[a](../table.md) b [c](../README.md)",
    ),
}


@pytest.mark.parametrize("page", LINKS)
def test_links_of_the_repository_become_links_of_the_site(site: dict[str, Any], page: str) -> None:
    text, linked = LINKS[page]
    assert site["linked"](text, page) == linked


def test_pictures_of_the_table_are_of_today(site: dict[str, Any]) -> None:
    grid = s4s.grid("edm", s4s.EDM(), nfe=5)
    for name in ("ddim", "ipndm"):
        assert (ROOT / f"docs/images/table-{name}.svg").read_text() == site["picture"](s4s.solver(name, grid))


def documented() -> Iterator[tuple[str, Any]]:
    """Public functions and classes, and the methods of these."""
    for name in s4s.__all__:
        value = getattr(s4s, name)
        if callable(value):
            yield name, value
        if inspect.isclass(value):
            yield from ((f"{name}.{key}", method) for key, method in vars(value).items() if inspect.isfunction(method))


def test_docstrings_name_the_arguments_that_there_are() -> None:
    """The site does not check this, because it does not read our ``mean, scale: ...``."""
    checked = 0
    for name, value in documented():
        found = re.search(r"^ *Args:\n((?: {4}.*\n|\n)*)", inspect.cleandoc(value.__doc__ or "") + "\n", flags=re.M)
        named = re.findall(r"^ {4}(\w[\w, *]*):", found[1] if found else "", flags=re.M)
        for argument in re.findall(r"\w+", ", ".join(named)):
            assert argument in inspect.signature(value).parameters, f"{name}: no argument {argument!r}"
            checked += 1
    assert checked > 80


def test_the_tutorial_runs_as_it_is_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """In a session that knows nothing, at its own sizes; what its comments promise is printed."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/tutorial.md").read_text()
    session: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        exec(compile(block, "tutorial", "exec"), session)
    before, after, same = capsys.readouterr().out.split("\n")[-4:-1]
    promised = [float(value) for value in re.findall(r"print\(miss\(.*# (0\.\d+)", text)]
    assert float(before) == pytest.approx(promised[0], rel=0.1)
    assert float(after) < 2 * promised[1] and same == "True"
    assert session["samples"].norm(dim=1).sub(1).abs().mean() < 0.1, "points near the circle"


def test_the_notebook_runs(tmp_path: Path) -> None:
    """All cells, by a kernel of its own, with a network that is trained for a moment."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    text = (ROOT / "examples/quickstart.ipynb").read_text()
    for large, small in {"steps=1200": "steps=3", "n=400": "n=24", "method=": "rounds=1, method="}.items():
        assert text.count(large) == 1, large
        text = text.replace(large, small)
    notebook = nbformat.reads(text, 4)
    environment = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=environment).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert s4s.load_solver(tmp_path / "digits-nfe4.json").nfe == 4


def test_the_notebook_shows_what_it_makes() -> None:
    cells = json.loads((ROOT / "examples/quickstart.ipynb").read_text())["cells"]
    said = "".join(text for cell in cells for output in cell.get("outputs", []) for text in output.get("text", []))
    before, after = map(float, re.findall(r"(0\.\d+) before, (0\.\d+) after", said)[0])
    assert after < before / 5
    links = re.findall(r"\]\((\.\./[^)]+)\)", "".join("".join(cell["source"]) for cell in cells))
    assert links and all((ROOT / "examples" / link).exists() for link in links)
