"""The page of ``s4s learn``: one self-contained file, without scripts and without requests."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4s.errors import extra
from s4s.files import write_text

with extra("diffusers"):
    from PIL import Image

SMALL = 64  # pixels a side, up to which pixels are kept as they are
LARGEST = 320  # of a picture in the page
NAMES = {"learned": "learned", "textbook": "best textbook", "own": "own scheduler"}


@dataclass(frozen=True)
class Block:
    """What one number of evaluations shows: pictures of each kind, and the solver as text."""

    nfe: int
    pictures: Mapping[str, Sequence[str]]
    solver: str


@dataclass(frozen=True)
class Page:
    """What the page says.

    Args:
        title: what was learned for.
        code: lines that use it.
        teacher: the teacher's pictures, as sources of images.
        prompts: of the pictures, in their order; empty without prompts.
        blocks: one a number of evaluations.
        record: as ``learned.json`` has it.
    """

    title: str
    code: Sequence[str]
    teacher: Sequence[str]
    prompts: Sequence[str]
    blocks: Sequence[Block]
    record: Mapping[str, Any]


def pictures(made: Tensor) -> list[str]:
    """Images [B, C, H, W] or videos [B, F, C, H, W] in [-1, 1] as sources of images; of a video its middle frame.

    Nothing else has pictures.
    """
    frames = made[:, made.shape[1] // 2] if made.ndim == 5 else made
    if frames.ndim != 4 or frames.shape[1] not in (1, 3):
        return []
    pixels = ((frames.float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(1, 3)
    return [_source(Image.fromarray(each.squeeze(2).numpy())) for each in pixels]


def _source(image: Any) -> str:
    image.thumbnail((LARGEST, LARGEST))
    small = max(image.size) <= SMALL
    buffer = io.BytesIO()
    image.save(buffer, **({"format": "PNG"} if small else {"format": "JPEG", "quality": 88}))
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def write_page(path: Path, page: Page) -> None:
    """Write the page, whole or not at all."""
    style = files("s4s.stages").joinpath("learned.css").read_text(encoding="utf-8")
    title = f"Learned solvers for {escape(page.title)}"
    body = [f"<h1>{title}</h1>", f'<p class="lead">{escape(_lead(page.record))}</p>', _code(page.code)]
    body += ["<h2>Distance to the teacher</h2>", _table(page), "<h2>Same noise, same prompt</h2>", *_pictures(page)]
    body += ["<h2>What was learned</h2>", *map(_solver, page.blocks), "<h2>How</h2>", _facts(page.record)]
    head = (
        f'<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}'
    )
    write_text(path, f'<!doctype html>\n<html lang="en">\n<head>\n{head}</title>\n<style>\n{style}</style>\n</head>\n'
                     f"<body>\n<main>\n{chr(10).join(body)}\n</main>\n</body>\n</html>\n")  # fmt: skip


def _lead(record: Mapping[str, Any]) -> str:
    """The middle number of evaluations in a sentence."""
    held_out = record["held_out"]
    nfe = [*held_out][len(held_out) // 2]
    found = held_out[nfe]
    said = f"With {nfe} evaluations the learned solver is {_percent(found['learned'])} from the teacher"
    own = f"the pipeline's own scheduler {_percent(found['own'])}, " if "own" in found else ""
    return f"{said}; {own}the best textbook solver {_percent(found['textbook'])}."


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _code(lines: Sequence[str]) -> str:
    return f'<pre class="code">{escape(chr(10).join(lines))}</pre>'


def _table(page: Page) -> str:
    """Distances of every kind at every number of evaluations."""
    record = page.record
    rows = []
    for nfe, found in record["held_out"].items():
        steps = record["own"]["steps"][nfe]
        notes = {
            "own": f"{record['own']['scheduler']}, {_steps(steps)}",
            "textbook": record["textbook"][nfe],
            "learned": f"{found['own'] / found['learned']:.1f} times nearer than own" if "own" in found else "",
        }
        cells = [f"<td>{_percent(found[key]) if key in found else '-'}<small>{escape(notes[key])}</small></td>"
                 for key in NAMES]  # fmt: skip
        rows.append(f'<tr><th scope="row">{nfe}</th>{"".join(cells)}</tr>')
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("NFE", *NAMES.values()))
    n = record["effort"]["held_out"]
    note = (f"NFE: network evaluations a sample. Distance: root mean square difference of latents to the teacher's, "
            f"which takes {record['teacher']['nfe']}, in standard deviations of the teacher's, over {n} samples that "
            "nothing was chosen by.")  # fmt: skip
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="wide">{table}</div><p class="note">{note}</p>'


def _steps(steps: Mapping[str, int] | None) -> str:
    if steps is None:
        return "not compared: it has no such steps, or takes no noises"
    return f"{steps['steps']} steps" + (
        f", {steps['evaluations']} evaluations" if steps["evaluations"] != steps["steps"] else ""
    )


def _pictures(page: Page) -> list[str]:
    """A grid for every number of evaluations; a column has one noise and one prompt."""
    if not page.teacher:
        return ['<p class="note">What this pipeline makes is not shown as pictures.</p>']
    made = []
    if page.prompts:
        listed = "".join(f"<li>{escape(prompt)}</li>" for prompt in page.prompts)
        made.append(f'<p class="note">Prompts of the columns, held out:</p><ol class="note">{listed}</ol>')
    for block in page.blocks:
        rows = [("teacher", page.teacher), *block.pictures.items()]
        grid = "".join(_row(name, sources, page, block.nfe) for name, sources in rows)
        made.append(f'<h3>{block.nfe} evaluations</h3>\n<div class="grid">{grid}</div>')
    return made


def _row(name: str, sources: Sequence[str], page: Page, nfe: int) -> str:
    found = page.record["held_out"][str(nfe)]
    label = NAMES.get(name, name) + (f"<small>{_percent(found[name])}</small>" if name in found else "")
    prompts = page.prompts or [""] * len(sources)
    images = "".join(f'<img src="{source}" alt="{escape(f"{NAMES.get(name, name)}, {nfe} evaluations: {prompt}")}">'
                     for source, prompt in zip(sources, prompts, strict=False))  # fmt: skip
    return f'<div class="row"><div class="label">{label}</div><div class="images">{images}</div></div>'


def _solver(block: Block) -> str:
    return f"<details><summary>{block.nfe} evaluations</summary><pre>{escape(block.solver)}</pre></details>"


def _facts(record: Mapping[str, Any]) -> str:
    facts = {**record["asked"], **{f"effort: {key}": value for key, value in record["effort"].items()},
             "method": record["method"], "call": record["call"]}  # fmt: skip
    rows = "".join(f'<tr><th scope="row">{escape(str(key))}</th><td>{escape(str(value))}</td></tr>'
                   for key, value in facts.items() if value is not None)  # fmt: skip
    return f'<div class="facts"><table><tbody>{rows}</tbody></table></div>'
