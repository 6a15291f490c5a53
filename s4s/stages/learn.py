"""``s4s learn``: from a saved pipeline to a folder with its learned solvers, a scheduler of them and a page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error, extra
from s4s.files import at_home, write_text
from s4s.learn.recipe import Learned, apart, learn
from s4s.models import hub, saved
from s4s.models.model import Model
from s4s.models.own import Own, Steps
from s4s.models.pipeline import pipeline_denoiser, recorded
from s4s.show import describe
from s4s.stages.asked import DTYPES, RECORD, UNFINISHED, Ask, Prompts, asked_for, before, prompts_of, require_same
from s4s.stages.learned import Block, Page, pictures, write_page

with extra("diffusers"):
    from s4s.integrations.diffusers import S4SScheduler

BUNDLE, SCHEDULER, PAGE = "solvers.json", "scheduler", "learned.html"
GIVES = {4: ".images[0]", 5: ".frames[0]"}  # of the result of a pipeline, by the dimensions of what latents decode to
SHOWN = 4  # pictures in a row of the page

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Task:
    """A loaded pipeline and what it is called with."""

    own: Own
    model: Model
    prompts: Prompts
    call: Mapping[str, Any]
    steps: Mapping[int, Steps | None]
    asked: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return type(self.own.pipe).__name__

    @property
    def prompted(self) -> bool:
        return bool(self.own.prompts)


def learn_pipeline(source: str, out: Path, ask: Ask, say: Say, *, progress: bool = True) -> list[str]:
    """Learn solvers for a saved pipeline; a killed call goes on when called again.

    Returns:
        What to print in the end: distances, files, and the lines of code that use them.
    """
    out = at_home(out)
    device, dtype = ask.where()
    prompts, found = prompts_of(ask.prompts), before(out)
    root = saved.place(source)
    saved.variant_of(root)
    asked = asked_for(ask, saved.facts(root, source), prompts, dtype)
    if found is not None:
        require_same(out, found, asked)
    if found is not None and (out / RECORD).exists():
        say(f"{out}: learned before with these settings, nothing to do")
        return ending(out, found)
    with hub.quiet("diffusers"), hub.quiet("transformers"):  # of prompts cut short, in every call
        pipe = saved.open_pipeline(root, dtype=DTYPES[dtype], device=device)
        task = _task(pipe, ask, prompts, asked)
        for line in _about(task):
            say(line)
        record = _write(out, task, _learned(task, out, ask, say, progress))
    shutil.rmtree(out / UNFINISHED)
    return ending(out, record)


def _learned(task: _Task, out: Path, ask: Ask, say: Say, progress: bool) -> Learned:
    """Teacher, starts, fits and held-out samples, kept in a folder while they are made."""
    levels = {nfe: None if steps is None else steps.levels for nfe, steps in task.steps.items()}
    mark, new = out / UNFINISHED / RECORD, not out.exists()
    write_text(mark, _dumps({"asked": dict(task.asked)}))
    try:
        return learn(
            task.model.denoiser, task.model.process, task.model.shape, ask.nfe, time=ask.time, samples=ask.samples,
            seed=ask.seed, batch=ask.batch, condition=task.prompts.rows, held_out=task.prompts.held_out_rows,
            levels=levels.get, device=task.own.pipe.device, resume=mark.parent, say=say, progress=progress,
        )  # fmt: skip
    except Error:
        if [*mark.parent.iterdir()] == [mark]:  # nothing was begun
            shutil.rmtree(out if new else mark.parent)
        raise


def _task(pipe: Any, ask: Ask, prompts: Prompts, asked: Mapping[str, Any]) -> _Task:
    """The pipeline, tried as it will be called."""
    known = saved.arguments(pipe)
    call: dict[str, Any] = {key: _typed(value, known.get(key, "")) for key, value in ask.options.items()}
    if "prompt" in call:
        raise Error("prompts are those of a file, one a line: --prompts FILE in place of --set prompt=")
    if "prompt" in known:
        call["prompt"] = prompts.lines
    elif ask.prompts is not None:
        raise Error(f"{type(pipe).__name__} takes no prompt; leave --prompts out")
    if ask.guidance is not None:
        call["guidance_scale"] = ask.guidance
    if ask.size is not None:
        call |= {"width": ask.size[0], "height": ask.size[1]}
    try:
        model = pipeline_denoiser(pipe, **call)
        lines = call.pop("prompt", [])
        if not lines:  # rows of something else, such as classes
            prompts = Prompts([str(k) for k in range(model.facts["prompts"]["n"])], "")
        own = Own(pipe, lines, call, model)
        return _Task(own, model, prompts, call, {nfe: _steps(own, nfe) for nfe in sorted({*ask.nfe})}, asked)
    except Error:
        raise
    except Exception as error:  # whatever a pipeline makes of arguments or parts that do not fit
        said = ", ".join(f"{key}={value!r:.40}" for key, value in call.items() if key != "prompt")
        raise Error(
            f"{type(pipe).__name__} cannot be called with {said or 'a prompt alone'}: {hub.line(error)}"
        ) from error


def _typed(value: Any, types: str) -> Any:
    """A list as the tuple that a pipeline names in its place."""
    return tuple(value) if isinstance(value, list) and "tuple" in types and "list" not in types else value


def _steps(own: Own, nfe: int) -> Steps | None:
    """The pipeline's own steps; None where its scheduler has none for so few evaluations, or noises cannot be given."""
    if "latents" not in saved.arguments(own.pipe):
        return None
    try:
        return own.at(nfe)
    except Error:
        return None


def _about(task: _Task) -> list[str]:
    """The pipeline and the prompts, a line each."""
    low, high = task.model.process.levels
    shape = " x ".join(map(str, task.model.shape))
    said = (
        f"{task.kind}: latents {shape}, predicts {task.model.facts['prediction']}, noise levels {high:.4g} to {low:.4g}"
    )
    held_out, n = task.prompts.held_out, len(task.prompts.lines)
    which = f"{n - held_out} to learn from, {held_out} held out" if held_out else "all for everything"
    return [said] + ([f"prompts: {n} {task.prompts.source}, {which}"] if task.prompted else [])


def _write(out: Path, task: _Task, learned: Learned) -> dict[str, Any]:
    """All files but the record, then the record, which says that they are there."""
    own = _own(task, learned)
    head = {"asked": dict(task.asked), "call": recorded(task.call), "class": task.kind, "prompted": task.prompted}
    head["tuples"] = [key for key, value in task.call.items() if isinstance(value, tuple)]  # which JSON has as lists
    record: dict[str, Any] = head | dict(learned.record)
    ends = (learned.teacher.y, _finished(task, learned)) if own else ()
    for nfe, x in own.items():  # of the two ends of the teacher the one that is nearer to where the scheduler ends
        record["held_out"][str(nfe)]["own"] = min(apart(x, y) for y in ends)
    record["own"] = {"scheduler": task.own.name, "steps": {
        str(nfe): None if steps is None else {"steps": steps.steps, "evaluations": steps.evaluations}
        for nfe, steps in task.steps.items()}}  # fmt: skip
    record["textbook"] = {str(nfe): f"{each.name}, {each.provenance['grid']}" for nfe, each in learned.textbook.items()}
    learned.bundle.save(out / BUNDLE)
    facts = {key: task.asked[key] for key in ("pipeline", "files", "guidance", "size")}
    shifts = {steps.shift for steps in task.steps.values() if steps is not None}
    facts["shift"] = shifts.pop() if len(shifts) == 1 else None  # of some pipelines it hangs on the steps as well
    card = {"model": task.kind} | {key: value for key, value in facts.items() if value is not None}
    prediction = task.model.facts["prediction"]
    S4SScheduler.from_solver(learned.bundle, task.model.process, prediction, card).save_pretrained(out / SCHEDULER)
    record["gives"] = GIVES.get(task.model.decode(learned.teacher.y[:1]).ndim)
    write_page(out / PAGE, _page(out, task, learned, own, record))
    write_text(out / RECORD, _dumps(record))
    return record


@torch.no_grad()
def _own(task: _Task, learned: Learned) -> dict[int, Tensor]:
    """The pipeline's own samples of the held-out noises."""
    made, teacher, z = {}, learned.teacher, learned.teacher.x_T / learned.teacher.sigma_max
    rows = task.prompts.held_out_rows(range(len(z))).tolist()
    batch = learned.record["effort"]["batch"]
    for nfe, steps in task.steps.items():
        if steps is not None:
            parts = [task.own.sample(z[k : k + batch], rows[k : k + batch], steps.steps, teacher.seed + k)
                     for k in range(0, len(z), batch)]  # fmt: skip
            made[nfe] = torch.cat(parts)
    return made


@torch.no_grad()
def _finished(task: _Task, learned: Learned) -> Tensor:
    """The teacher's samples taken on to level 0, where many schedulers end."""
    teacher, batch = learned.teacher, learned.record["effort"]["batch"]
    low = torch.tensor(task.model.process.levels[0], dtype=torch.float64)
    assert teacher.condition is not None
    return torch.cat([task.model.denoiser(teacher.condition[k : k + batch])(teacher.y[k : k + batch], low)
                      for k in range(0, len(teacher), batch)])  # fmt: skip


def _page(out: Path, task: _Task, learned: Learned, own: Mapping[int, Tensor], record: Mapping[str, Any]) -> Page:
    """What the page shows."""

    def shown(x: Tensor) -> list[str]:
        return pictures(task.model.decode(x[:SHOWN].to(learned.teacher.y)))

    blocks = []
    for nfe, solver in learned.bundle.items():
        rows = [
            ("learned", shown(learned.outputs["learned"][nfe])),
            ("textbook", shown(learned.outputs["textbook"][nfe])),
        ]
        rows += [("own", shown(own[nfe]))] if nfe in own else []
        blocks.append(Block(nfe, dict(rows), describe(solver)))
    first = task.prompts.held_out_rows(range(SHOWN)).tolist()
    held_out = [task.prompts.lines[i] for i in first] if task.prompted else []
    return Page(task.kind, code(out, record), shown(learned.teacher.y), held_out, blocks, record)


def code(out: Path, record: Mapping[str, Any]) -> list[str]:
    """The lines that use what was learned."""
    tuples = {key: tuple(record["call"][key]) for key in record.get("tuples", ())}
    call = "".join(f", {key}={value!r}" for key, value in (record["call"] | tuples).items())
    nfe, prompt = record["asked"]["nfe"], '"a lighthouse on a rocky coast", ' if record["prompted"] else ""
    return [
        "from s4s.integrations.diffusers import S4SScheduler",
        f'pipe.scheduler = S4SScheduler.from_pretrained("{(out / SCHEDULER).as_posix()}")',
        f"out = pipe({prompt}num_inference_steps={nfe[len(nfe) // 2]}{call}){record['gives'] or ''}",
    ]


def ending(out: Path, record: Mapping[str, Any]) -> list[str]:
    """Distances, files and code."""
    named = {"learned": "learned", "textbook": "best textbook", "own": record["own"]["scheduler"]}
    head = "  ".join(["NFE", *(f"{name:>16}" for name in named.values())])
    rows = [
        "  ".join([f"{nfe:>3}", *(f"{100 * found[key]:>14.2f} %" if key in found else f"{'-':>16}" for key in named)])
        for nfe, found in record["held_out"].items()
    ]
    title = "distance to the teacher on held-out samples, in % of their standard deviation"
    files = f"{out / PAGE}: the page; {out / BUNDLE}: the solvers; {out / SCHEDULER}: for diffusers"
    notes = [f"{nfe} evaluations: {note}" for nfe, found in record["notes"].items() for note in found]
    return [title, head, *rows, *notes, "", files, "", "With your pipeline loaded as `pipe`:", *code(out, record)]


def _dumps(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=1) + "\n"
