"""The pages of the documentation site, for MkDocs: `make docs` calls this.

docs/ is copied to build/docs, with a page a solver, the API and the command line, all read from the code. Links that
leave docs/ lead to where their file is in the site, and are plain text where it has no page.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
from pathlib import Path
from typing import Any

import click
import yaml
from picture import picture

import s4s
from s4s.cli.main import cli
from s4s.show import describe
from s4s.textbook import SOLVERS

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
PROJECT = {"CONTRIBUTING.md": "project/contributing.md", "CHANGELOG.md": "project/changelog.md"}
HOSTS = ["diffusers.S4SScheduler", "k_diffusion.sample_s4s", "k_diffusion.get_sigmas_s4s", "k_diffusion.denoiser"]
ZOO = ["ld3", "dyweight", "epd", "gs", "levels_of"]
TITLES = {"": "Processes, grids and solvers", "learn": "Learning", "models": "Models", "score": "Scores",
          "integrations": "Where people sample", "zoo": "Others' solvers"}  # fmt: skip
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def main() -> None:
    shutil.rmtree(BUILD, ignore_errors=True)
    shutil.copytree(ROOT / "docs", BUILD / "docs")
    for name, text in pages().items():
        path = BUILD / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for path in (BUILD / "docs").rglob("*.md"):
        text = linked(path.read_text(encoding="utf-8"), str(path.relative_to(BUILD / "docs")))
        path.write_text(text, encoding="utf-8")
    (BUILD / "mkdocs.yml").write_text(yaml.safe_dump(settings(), sort_keys=False), encoding="utf-8")


def settings() -> Any:
    """mkdocs.yml, with the solvers in the place kept for them, and pages that it does not name last of the how-tos."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    (howtos,) = (part["How to"] for part in config["nav"] if "How to" in part)
    howtos += [path.name for path in sorted((ROOT / "docs").glob("*.md")) if f" {path.name}\n" not in text]
    (reference,) = (part["Reference"] for part in config["nav"] if "Reference" in part)
    place = reference.index("solvers/*.md")
    reference[place : place + 1] = [{name: f"solvers/{name}.md"} for name in SOLVERS]
    return config


def pages() -> dict[str, str]:
    """What is not in docs/: name -> text."""
    made = {f"solvers/{name}.md": solver_page(name) for name in SOLVERS}
    made |= {f"images/{name}.svg": picture(example(name)) for name in SOLVERS}
    made |= {"reference/python.md": python_page(), "reference/commands.md": commands_page()}
    return made | {page: (ROOT / name).read_text(encoding="utf-8") for name, page in PROJECT.items()}


def linked(markdown: str, page: str) -> str:
    """The links of a page as links of the site."""
    own = {place: name for name, place in PROJECT.items()}.get(page, f"docs/{page}")

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        if re.match(r"\w+:", target):
            return found[0]
        path = os.path.normpath(os.path.join(os.path.dirname(own), target))
        if path == "README.md":  # the project's front door; the site has its own
            path, anchor = "docs/README.md", ""
        place = PROJECT.get(path, path.removeprefix("docs/"))
        if place == path:
            return text
        return f"[{text.removesuffix('.md')}]({os.path.relpath(place, os.path.dirname(page))}{anchor})"

    return LINK.sub(link, markdown)


def example(name: str) -> s4s.Solver:
    """A solver of 5 evaluations on the EDM grid; of 6 where a step takes two."""
    for nfe in (5, 6):
        try:
            steps = s4s.intervals(name, nfe)
        except s4s.Error:
            continue
        return s4s.solver(name, s4s.grid("edm", s4s.EDM(), steps))
    raise AssertionError(name)


def solver_page(name: str) -> str:
    """Citation, options, table, measured order and code of one textbook solver."""
    function, solver = SOLVERS[name], example(name)
    first, *rest = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    lines = [f"# {name}", "", first.replace("\n", " "), "", *rest, ""]
    if options := s4s.solvers()[name]:
        lines += ["| option | default | others |", "|---|---|---|"]
        lines += [f"| `{key}` | `{found['default']!r}` | {others(found)} |" for key, found in options.items()]
    made = f's4s.solver("{name}", s4s.grid("edm", s4s.EDM(), {s4s.intervals(name, solver.nfe)}))'
    lines += ["", f"## Its table at {solver.nfe} evaluations", "", f"![The coefficients](../images/{name}.svg)", "",
              f"Every state `x[n]` of `{made}` is this sum of the noise `x_T` and the network's outputs `D[j]`"
              " ([how to read it](../table.md)).", "", "```text", describe(solver).split("\n\nsolver:")[0], "```", "",
              "## Its order", "", "What theory says, and the slope of the error from 128 to 256 steps"
              " ([how it is measured](../convergence.md)).", "", *orders(name), ""]  # fmt: skip
    lines += ["## Its source", "", "In `s4s/textbook.py`:", "", "```python", inspect.getsource(function), "```", ""]
    return "\n".join(lines)


def others(option: dict[str, Any]) -> str:
    """The choices of an option beside its default."""
    return ", ".join(f"`{value!r}`" for value in option.get("choices", []) if value != option["default"])


def orders(name: str) -> list[str]:
    """The rows of docs/convergence.md that are about one solver, with the table's head."""
    rows = [line for line in (ROOT / "docs/convergence.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    return rows[:2] + [row for row in rows[2:] if re.match(rf"\| {name}(\d|-| )", row)]


def python_page() -> str:
    """Everything public, from the docstrings, in the order of ``s4s.__all__``."""
    names = [f"{home}.{name}" for name, home in s4s._HOME.items()] + [f"integrations.{name}" for name in HOSTS]
    names += [f"zoo.published.{name}" for name in ZOO]
    lines = ["# Python", "", "All of it is `s4s.NAME`, but for what lies in `s4s.integrations` and `s4s.zoo`.", ""]
    for wing, title in TITLES.items():
        own = [name for name in names if (head if (head := name.split(".")[0]) in TITLES else "") == wing]
        lines += [f"## {title}", "", *(f"::: s4s.{name}\n" for name in own)]
    return "\n".join(lines)


def commands_page() -> str:
    """``--help`` of every command."""
    lines = ["# The command line", "", "What `s4s COMMAND --help` prints, command by command.", ""]
    named = {f"s4s {name}": command for name, command in cli.commands.items()}
    for name, command in [*named.items()]:
        if isinstance(command, click.Group):
            named |= {f"{name} {inner}": each for inner, each in command.commands.items()}
    for name, command in sorted(named.items()):
        with click.Context(command, info_name=name, max_content_width=100) as context:
            lines += [f"## {name}", "", "```text", command.get_help(context), "```", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
