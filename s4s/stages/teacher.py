"""The teacher stage: what the strong solver makes of seeded noises."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from s4s.config import cells, made_from
from s4s.errors import Error
from s4s.files import replacing
from s4s.models.digits import SHAPE
from s4s.stages.bench import denoiser, textbook
from s4s.stages.files import Config, Folder, expect
from s4s.teacher import TeacherSet, generate


def make_teacher(config: Config, results: Path) -> Path:
    """Run the teacher on its noises; training samples first, then the held-out ones."""
    spec = config["teacher"]
    solver = textbook(config, cells(config)[0])
    indices = range(spec["train"] + spec["validation"])
    y = generate(solver, denoiser(config, results), indices, SHAPE, spec["seed"], progress="teacher")
    path = Folder(config, results).teacher
    record = {"name": solver.name, "schedule": spec["schedule"], "nfe": solver.nfe, "seed": spec["seed"]}
    metadata = {"record": json.dumps(record), "made_from": json.dumps(made_from(config, "teacher"))}
    with replacing(path) as temporary:
        save_file({"y": y}, temporary, metadata)
    return path


def teacher_pairs(config: Config, results: Path) -> TeacherSet:
    """The teacher set of this config."""
    path = Folder(config, results).teacher
    try:
        with safe_open(path, framework="pt") as file:
            metadata, y = file.metadata(), file.get_tensor("y")
    except (OSError, SafetensorError) as error:
        raise Error(f"{path}: cannot read the teacher set ({error}); run `s4s teacher` again") from error
    expect(path, json.loads(metadata["made_from"]), made_from(config, "teacher"))
    return TeacherSet(y, config["teacher"]["seed"], config["process"]["sigma_max"], 0, json.loads(metadata["record"]))
