"""README and docs: every Python block runs, every command parses, every link and file is there."""

from __future__ import annotations

import itertools
import math
import re
import shlex
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
import yaml
from extractors import register
from torch import Tensor

import s4s
from s4s.cli.main import cli
from s4s.learn import methods
from s4s.score import protocol as protocols
from s4s.score import reference
from s4s.score.features import extractor
from s4s.stages.config import check
from s4s.stages.kinds import parts

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
IMPORTS = r"(?:s4s|torch|s4s\.zoo|s4s\.learn\.methods|s4s\.integrations\.\S+)(?:$| import )"
SMALLER = {
    "n=1400": "n=24",
    "(3, 32, 32)": "(1, 3, 3)",
    "nfe=40": "nfe=8",
    "n=64": "n=8",
    "rounds=6": "rounds=1",
    "[4, 5, 6, 8]": "[4, 5]",
    "[4, 6, 8], time=600": "[2], samples=8",
}


def blocks(page: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a reader brings: a network, noises, samples, a saved pipeline; and files that would have to be fetched."""
    monkeypatch.chdir(tmp_path)
    register()
    monkeypatch.setattr(methods, "METHODS", {**methods.METHODS})  # to which a page adds
    np.savez(tmp_path / "reference.npz", mu=np.zeros(6), sigma=np.eye(6))
    monkeypatch.setattr(protocols.Protocol, "build", lambda *_, **__: extractor("dummy", None, "6"))
    monkeypatch.setattr(reference, "fetch", lambda *_, **__: tmp_path / "reference.npz")
    return {
        "net": lambda x, time: x / (1 + time[:, None, None, None] ** 2) ** 0.5,
        "x_T": 80 * s4s.noise(1, range(2), (1, 3, 3)),
        "samples": s4s.noise(2, range(8), (3, 4, 4)).clamp(-1, 1),
        **{"s4s": s4s, "torch": torch, "math": math, "beta_0": 0.1, "beta_1": 20.0},
        "alphas_cumprod": torch.linspace(0.9999, 0.01, 1000, dtype=torch.float64),
        "decode": lambda z: z,
        "taps": lambda x: [x],
    }


def text_pipeline() -> Any:
    """A pipeline of random weights, with embeddings drawn for any prompts."""
    pytest.importorskip("diffusers")
    from tiny import TINY, embeddings

    pipe = TINY["SDXL"]().pipe
    pipe.set_progress_bar_config(disable=True)

    def encode(prompt: Any, **_: Any) -> tuple[Tensor, ...]:
        n = 1 if isinstance(prompt, str) else len(prompt)
        return embeddings(n, 5, 8), embeddings(n, 5, 8, seed=8), embeddings(n, 8), embeddings(n, 8, seed=8)

    pipe.encode_prompt = encode
    return pipe


def host(path: Path) -> Any:
    """A pipeline of random weights, and a bundle for it on disk."""
    diffusers = pytest.importorskip("diffusers")
    from pipelines import ddim, unet

    pipe = diffusers.DDPMPipeline(unet(in_channels=3, out_channels=3), ddim())
    pipe.set_progress_bar_config(disable=True)
    process = s4s.VPDiscrete(pipe.scheduler.alphas_cumprod)
    s4s.Bundle({nfe: s4s.solver("ipndm", s4s.grid("logsnr", process, nfe)) for nfe in (4, 6)}).save(path)
    return pipe


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=page_id)
def test_python_blocks_run_on_public_names(page: Path, given: dict[str, Any]) -> None:
    """In order, in one session, at small sizes; they import little but ``s4s`` and its hosts' wing."""
    if "my-model" in page.read_text():
        pytest.importorskip("diffusers")
        from pipelines import ddim, ddpm_folder, unet

        ddpm_folder(Path("my-model"), unet(num_class_embeds=11), ddim())
    if "pipeline_denoiser" in page.read_text():
        given["pipe"] = text_pipeline()
    elif "pipe." in page.read_text():
        given["pipe"] = host(Path("solvers.json"))
    if "sample_s4s" in page.read_text():
        given |= {"model": lambda x, sigma, cond: x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2), "cond": None}
    given |= {"Trace": object, "Tensor": Tensor, "pairwise": itertools.pairwise}  # the block of "I add a solver"
    for block in blocks(page, "python"):
        assert not re.findall(rf"^(?:from|import) (?!{IMPORTS})", block, flags=re.MULTILINE), block
        for large, small in SMALLER.items():
            block = block.replace(large, small)
        exec(compile(block, page_id(page), "exec"), given)
        assert {*re.findall(r"\bs4s\.(\w+)", block)} <= {*s4s.__all__, "integrations", "learn", "zoo"}


def test_the_solver_of_the_readme_is_the_one_that_runs() -> None:
    lines = [line.strip() for line in (ROOT / "s4s/textbook.py").read_text().splitlines()]
    for page in ("README.md", "docs/add-a-solver.md"):
        (ddim,) = (block for block in blocks(ROOT / page, "python") if block.startswith("def ddim"))
        assert all(line.strip() in lines for line in ddim.splitlines())


def commands(page: Path) -> list[str]:
    """Shell lines of a page, without their comments: in blocks and in running text."""
    text = page.read_text()
    shown = [line for block in blocks(page, "sh") for line in block.splitlines()]
    inline = re.findall(r"`((?:s4s|make|snakemake|python) [^`]+)`", text)
    indented = re.findall(r"^    ((?:s4s|make) .*)$", text, flags=re.MULTILINE)
    return [re.sub(r"\s+# .*", "", line) for line in (*shown, *inline, *indented)]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_are_real(page: Path) -> None:
    targets = {*re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)}
    for line in commands(page):
        program, *words = shlex.split(line.replace("...", "x")) or [""]
        if program == "s4s" and words[0][0] not in "<-":
            parse_command(cli, words, line)
        elif program == "make":
            assert words[0].startswith(("ARGS", "PYTHON")) or words[0] in targets, line
        for path in re.findall(r"(?:config|benchmarks|tests|workflow)/[\w./-]+\w", line):
            assert (ROOT / path).exists(), line


def parse_command(group: click.Group, words: list[str], line: str) -> None:
    """Command and options are known; arguments may be left out, as running text does."""
    name, *rest = words
    command = group.commands.get(name)
    assert command is not None, line
    if isinstance(command, click.Group) and rest:
        return parse_command(command, rest, line)
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert {word for word in rest if word.startswith("--")} <= known, line
    return None


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md", ROOT / "results/README.md"], ids=page_id)
def test_links_and_named_files_are_there(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target
    for path in re.findall(r"`((?:s4s|tests|config|workflow|benchmarks|docs|tools)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=page_id)
def test_settings_make_a_config(page: Path) -> None:
    """Each block as a reader would use it: in place of what ``config/ffhq.yaml`` says."""
    for block in blocks(page, "yaml"):
        if "parts:" in block:
            assert parts(yaml.safe_load(block), ROOT / "config")
            continue
        config = yaml.safe_load((ROOT / "config/ffhq.yaml").read_text())
        for section, settings in yaml.safe_load(block).items():
            kept = {} if section in ("model", "process", "score") else config.get(section, {})
            config[section] = kept | settings if isinstance(settings, dict) else settings
        check(config)


def test_readme_begins_with_the_two_commands_and_stays_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    first = [line.split("#")[0].strip() for line in blocks(ROOT / "README.md", "sh")[0].splitlines()]
    assert first == ["make reproduce", "make test"] and len(lines) <= 105
    wings = {path.parent.name for path in (ROOT / "s4s").glob("*/__init__.py")}
    table = {*re.findall(r"^\| `s4s/(\w+)/`", "\n".join(lines), flags=re.MULTILINE)}
    assert wings == table


@pytest.mark.parametrize("page", sorted((ROOT / "docs/notes").glob("2*.md")), ids=page_id)
def test_notes_are_dated_and_listed(page: Path) -> None:
    assert re.fullmatch(r"20\d\d-\d\d-\d\d-[a-z0-9-]+", page.stem)
    assert f"({page.name})" in (page.parent / "README.md").read_text()
