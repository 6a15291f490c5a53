"""The teacher stage: what the strong solver makes of seeded noises, in shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from s4s.errors import Error
from s4s.files import write_tensors
from s4s.learn.teacher import TeacherSet, generate
from s4s.stages.bench import Bench
from s4s.stages.cells import Cell, teacher_files


def make_teacher(bench: Bench, cell: Cell, first: int, last: int) -> Path:
    """Run a teacher on noises ``first`` to ``last - 1``; training samples come first, then the held-out ones."""
    path = _files(bench, cell)[first, last]
    spec = bench.config["teacher"]
    reads = bench.reads(*bench.searched(cell))
    solver = bench.textbook(cell)
    y = generate(solver, bench.denoiser, range(first, last), bench.model.shape, spec["seed"],
                 batch=bench.batch, device=bench.device, progress=cell.name)  # fmt: skip
    record: dict[str, Any] = {"name": solver.name, "schedule": cell.schedule, "nfe": solver.nfe, "seed": spec["seed"]}
    if conditions := {key: value for key in ("classes", "prompts") if (value := bench.model.facts.get(key))}:
        record["condition"] = conditions  # of sample i by its index, so nothing else needs to be stored
    write_tensors(path, {"y": y.cpu().contiguous()}, {"record": json.dumps(record)})
    bench.chain.note(path, "teacher", reads)
    return path


def teacher_pairs(bench: Bench, cell: Cell) -> TeacherSet:
    """All samples of a teacher, on the bench's device."""
    parts, record = [], {}
    bench.chain.read(*teacher_paths(bench, cell))
    for (first, last), path in _files(bench, cell).items():
        y, metadata = _read(path)
        record = json.loads(metadata["record"])
        if len(y) != last - first or record["nfe"] != cell.nfe:
            raise Error(f"{path}: holds other samples than its name says; run `s4s teacher` again")
        parts.append(y)
    y = torch.cat(parts).to(bench.device)
    return TeacherSet(y, bench.config["teacher"]["seed"], bench.process.sigma_max, 0, record)


def teacher_paths(bench: Bench, cell: Cell) -> list[Path]:
    """Files of a teacher's samples."""
    return list(_files(bench, cell).values())


def _files(bench: Bench, cell: Cell) -> dict[tuple[int, int], Path]:
    return {part: bench.folder.root / name for name, part in teacher_files(bench.config, cell).items()}


def _read(path: Path) -> tuple[Tensor, dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("y"), file.metadata()
    except (OSError, SafetensorError) as error:
        raise Error(f"{path}: cannot read the teacher set ({error}); run `s4s teacher` again") from error
