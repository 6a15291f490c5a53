"""``s4s learn``: solvers for a saved pipeline, in one command."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from s4s.errors import Error

MOST_NFE = 64  # a solver of few steps is learned; its numbers grow with the square of the steps
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class _Numbers(click.Command):
    """A command whose option ``--nfe`` takes several values after it: ``--nfe 4 6 8``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        found: list[str] = []
        of = False
        for word in args:
            if found[-1:] == ["--nfe"] and not re.fullmatch(r"-?\d+", word):
                raise Error(f"--nfe {word}: give whole numbers with blanks between them, such as --nfe 4 6 8")
            if of and re.fullmatch(r"\d+", word):
                found += [] if found[-1] == "--nfe" else ["--nfe"]
            of = word == "--nfe" or (of and bool(re.fullmatch(r"\d+", word)))
            found.append(word)
        return super().parse_args(ctx, found)


def _seconds(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    """``90s``, ``10m`` or ``1.5h``."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+\.?\d*)\s*([smh])", text.strip().lower())
    if match is None or float(match[1]) == 0:
        raise Error(f"--time {text}: give seconds, minutes or hours, such as 90s, 10m or 1.5h")
    return float(match[1]) * UNITS[match[2]]


def _size(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """``512`` or ``1024x768``, width first."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip().lower())
    if match is None or "0" in (match[1], match[2]):
        raise Error(f"--size {text}: give pixels, such as 512, or width and height, such as 1024x768")
    return int(match[1]), int(match[2] or match[1])


def _options(context: click.Context, parameter: click.Parameter, words: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE``: numbers, true, false, null and lists as JSON has them, all else as text."""
    made: dict[str, Any] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key.isidentifier():
            raise Error(f"--set {word}: give NAME=VALUE, an argument of the pipeline")
        try:
            made[key] = json.loads(value)
        except ValueError:
            made[key] = value
    return made


@click.command(cls=_Numbers)
@click.argument("pipeline")
@click.option(
    "--nfe",
    multiple=True,
    type=click.IntRange(1, MOST_NFE),
    metavar="N...",
    default=(4, 6, 8),
    show_default="4 6 8",
    help="Numbers of network evaluations to learn for.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for what is learned.")
@click.option("--prompts", metavar="FILE", help="One a line; default 64 neutral ones.")
@click.option("--guidance", type=float, help="The pipeline's guidance_scale; default its own.")
@click.option("--size", callback=_size, metavar="WxH", help="Pixels, 512 or 1024x768; default the pipeline's.")
@click.option(
    "--set",
    "options",
    multiple=True,
    callback=_options,
    metavar="NAME=VALUE",
    help="Any other argument of the pipeline, such as num_frames=9.",
)
@click.option("--time", callback=_seconds, metavar="TIME", help="At hand: 90s, 10m, 2h; sizes are chosen to fit it.")
@click.option("--samples", type=click.IntRange(min=8), help="Of the teacher, to learn from.")
@click.option(
    "--batch", type=click.IntRange(min=1), help="Rows of a network call; default 8, on a CPU as many more as pay."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of noises and batches.")
@click.option("--dtype", help="float32, bfloat16 or float16; default bfloat16 on a GPU.")
@click.option("--device", help="cpu, cuda, cuda:1, ...; default a GPU if there is one.")
def learn(pipeline: str, out: Path, **asked: Any) -> None:
    """Learn few-step solvers for a saved diffusers pipeline, a folder or a repository OWNER/NAME.

    Writes one file of solvers, a scheduler folder for diffusers and a page with pictures; says first what it will do
    and how long that takes. Killed, it goes on when called again.

    Example: s4s learn my-pipeline --nfe 4 6 8 --out learned --time 10m
    """
    from s4s.stages.asked import Ask
    from s4s.stages.learn import learn_pipeline

    for line in learn_pipeline(pipeline, out, Ask(**asked), partial(click.echo, err=True)):
        click.echo(line)
