"""Commands on solvers: ``s4s teacher``, ``fit``, ``check-method`` and ``show``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from s4s.cli.common import CELLS, CONFIG, RESULTS, on_cells, open_model
from s4s.errors import Error
from s4s.stages.cells import teacher_files, teachers
from s4s.stages.config import load


@click.command()
@CONFIG
@RESULTS
@click.option("--nfe", type=int, help="Evaluations of the teacher, where there are several; default all of them.")
@click.option("--first", type=click.IntRange(min=0), help="First sample index of one shard; default all shards.")
def teacher(config: Path, results: Path, nfe: int | None, first: int | None) -> None:
    """Run the strong solver on seeded noises.

    Example: s4s teacher config/digits.yaml
    """
    from s4s.stages.teacher import make_teacher

    loaded = load(config)
    jobs = [
        (cell, a, b)
        for cell in teachers(loaded)
        for a, b in teacher_files(loaded, cell).values()
        if nfe in (None, cell.nfe) and first in (None, a)
    ]
    if not jobs:
        raise Error(f"{config}: no teacher has {nfe or 'any'} evaluations and a shard that starts at {first or 0}")
    bench = open_model(loaded, results)
    for cell, a, b in jobs:
        click.echo(make_teacher(bench, cell, a, b))


@click.command()
@CONFIG
@CELLS
@RESULTS
def fit(config: Path, names: Sequence[str], results: Path) -> None:
    """Write the solvers of some cells: textbook numbers, or what a method learns from them.

    Example: s4s fit config/digits.yaml s4s-alt_ipndm3_edm_nfe4_seed0
    """
    from s4s.stages.fit import fit_cell

    on_cells(fit_cell, config, names, results)


@click.command("check-method")
@click.argument("file", type=click.Path(path_type=Path))
def check_method(file: Path) -> None:
    """Run a method of your own small, on a network of closed form, and say what is missing from its file.

    The file, methods/NAME.py, holds one function: sample(x_T, denoise, process, nfe), solver(process, nfe), or
    fit(start, denoise, teacher, seed). Exit status 1 when something is missing.

    Example: s4s check-method methods/diffusers_dpmpp.py
    """
    from s4s.stages.check_method import check

    lines, whole = check(file)
    click.echo("\n".join(lines))
    if not whole:
        sys.exit(1)


@click.command()
@click.argument("solver", type=click.Path(path_type=Path))
@click.option("--nfe", type=int, help="Of a bundle or curve, the solver of this many evaluations; default all.")
@click.option("--sigmas", is_flag=True, help="One line of levels, for hosts that take no weights.")
@click.option("--flow", is_flag=True, help="With --sigmas: times of a flow model, from 0 to 1, in place of levels.")
def show(solver: Path, nfe: int | None, sigmas: bool, flow: bool) -> None:
    """Print a solver file, or every solver of a bundle: grid, evaluation levels and weights. Of a curve, its functions.

    Example: s4s show solver.json

    With --sigmas, one line to paste where a host takes levels of its own, and on stderr what they lose.
    """
    from s4s.bundle import load_bundle
    from s4s.curve import Curve
    from s4s.show import describe, describe_curve, levels, lost

    if flow and not sigmas:
        raise Error("--flow belongs to --sigmas")
    found = load_bundle(solver)
    if isinstance(found, Curve) and nfe is None and not sigmas:
        click.echo(describe_curve(found))
        return
    chosen = list(found.values()) if nfe is None else [found[nfe]]
    if not sigmas:
        click.echo("\n\n".join(describe(each) for each in chosen))
        return
    if len(chosen) > 1:
        raise Error(f"{solver}: one line is of one solver; give --nfe, one of: {found.numbers}")
    click.echo(levels(chosen[0], flow=flow))
    click.echo(lost(chosen[0]), err=True)
