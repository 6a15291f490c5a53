"""What `s4s learn` is asked for, checked before any work: settings, prompts, and the folder that it writes to."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error, require_choice
from s4s.files import read_text, require_place
from s4s.models import captions
from s4s.values import require_device
from s4s.version import __version__

RECORD, UNFINISHED = "learned.json", "unfinished"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MOST_PROMPTS = 256  # encoded together, in one call
LEAST_PROMPTS = 4  # from which some are held out
HELD_OUT = 16  # prompts, at the most


@dataclass(frozen=True)
class Ask:
    """What is asked for.

    Args:
        nfe: numbers of evaluations.
        prompts: a file with one a line; None takes a list of neutral ones.
        guidance: the pipeline's ``guidance_scale``; None is its default.
        size: width and height; None is the pipeline's default.
        options: further arguments of the pipeline.
        samples: of the teacher; None is what ``time`` allows.
        time: seconds at hand; None takes a middle amount of work.
        dtype, device: of the network; None is a GPU in bfloat16 where there is one, else a CPU in float32.
        batch: rows of a network call; None is as many as pay.
    """

    nfe: Sequence[int] = (4, 6, 8)
    prompts: str | None = None
    guidance: float | None = None
    size: tuple[int, int] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    samples: int | None = None
    time: float | None = None
    seed: int = 0
    dtype: str | None = None
    device: str | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        if self.guidance is not None and not math.isfinite(self.guidance):
            raise Error(f"guidance {self.guidance}: give a finite number")

    def where(self) -> tuple[torch.device, str]:
        """Device, and the name of the dtype."""
        device = require_device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = self.dtype or ("float32" if device.type == "cpu" else "bfloat16")
        require_choice("dtype", dtype, DTYPES)
        return device, dtype


@dataclass(frozen=True)
class Prompts:
    """All prompts; the last quarter of them, 16 at the most, is held out where there are four or more."""

    lines: list[str]
    source: str

    @property
    def held_out(self) -> int:
        return min(len(self.lines) // 4, HELD_OUT) if len(self.lines) >= LEAST_PROMPTS else 0

    def rows(self, indices: range) -> Tensor:
        """Numbers of prompts for samples to learn from, int64 [B]."""
        return torch.tensor([i % (len(self.lines) - self.held_out) for i in indices], dtype=torch.int64)

    def held_out_rows(self, indices: range) -> Tensor:
        """The same for held-out samples."""
        if not self.held_out:
            return self.rows(indices)
        return torch.tensor([len(self.lines) - self.held_out + i % self.held_out for i in indices], dtype=torch.int64)


def prompts_of(source: str | None) -> Prompts:
    """The prompts of a file, or the neutral ones."""
    if source is None:
        return Prompts(captions.neutral(), "built in")
    return Prompts(captions.every(source)[:MOST_PROMPTS], Path(source).name)


def before(out: Path) -> dict[str, Any] | None:
    """The record that is in an output folder, of finished or unfinished work; None if there is nothing.

    Raises:
        Error: the folder holds something else.
    """
    require_place(out)
    if out.is_file():
        raise Error(f"{out}: a file; give a folder for what is learned")
    for path in (out / RECORD, out / UNFINISHED / RECORD):
        if path.exists():
            try:
                found: dict[str, Any] = json.loads(read_text(path))
                found["asked"]["files"]
                return found
            except (ValueError, KeyError, TypeError) as error:
                raise Error(f"{path}: damaged, or not of s4s learn; give another --out, or remove the folder {out} "
                            "with all that is in it") from error  # fmt: skip
    if out.is_dir() and (other := min((p.name for p in out.iterdir() if p.name != UNFINISHED), default=None)):
        raise Error(f"{out}: holds other files, such as {other}; give a folder of its own")
    return None


def asked_for(ask: Ask, about: Mapping[str, Any], prompts: Prompts, dtype: str) -> dict[str, Any]:
    """What makes it this work and no other, JSON-able; the device and the rows of a call do not."""
    files = json.dumps(about["files_sha256"], sort_keys=True).encode()
    asked = {
        "version": __version__, "pipeline": about["pipeline"], "revision": about["revision"],
        "files": hashlib.sha256(files).hexdigest(), "prompts": captions.sha256(prompts.lines),
        "nfe": sorted({*ask.nfe}), "guidance": ask.guidance, "size": ask.size, "options": dict(ask.options),
        "samples": ask.samples, "time": ask.time, "seed": ask.seed, "dtype": dtype,
    }  # fmt: skip
    made: dict[str, Any] = json.loads(json.dumps(asked))
    return made


def require_same(out: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise unless what is in a folder was asked for in the same way."""
    then = found["asked"]
    for key, now in asked.items():
        if key in ("pipeline", "revision") or then.get(key) == now:
            continue
        if key == "files":
            raise Error(f"{out}: holds what was learned for another model, {then.get('pipeline')!r:.80}; give another "
                        "--out, or remove it")  # fmt: skip
        values = "" if key == "prompts" else f" ({_said(then.get(key))} there, {_said(now)} now)"
        raise Error(f"{out}: holds what was learned with another {key}{values}; give another --out, or remove it")


def _said(value: Any) -> str:
    return "the default" if value is None else f"{value!r:.60}"
