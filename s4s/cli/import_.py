"""``s4s import``: one sub-command a format of published weights and solvers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from s4s.cli.common import save_solvers
from s4s.errors import Error, require_choice

OUT = click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="NAME.safetensors to write, and NAME.json."
)
SHA256 = click.option("--sha256", help="Expected hash of the file, checked before it is read.")
ALLOW_UNVERIFIED = click.option("--allow-unverified", is_flag=True, help="Read a file whose hash you do not know.")


@click.group("import")
def import_() -> None:
    """Turn published weights into safetensors, and published solvers into solver files. Nothing in them is executed.

    Example: s4s import edm edm-cifar10-32x32-uncond-vp.pkl --out edm-cifar10.safetensors --sha256 4d5d...
    """


@import_.command("edm")
@click.argument("pickle", type=click.Path(path_type=Path))
@OUT
@SHA256
@ALLOW_UNVERIFIED
def import_edm(pickle: Path, out: Path, sha256: str | None, allow_unverified: bool) -> None:
    """An EDM pickle (CIFAR-10, FFHQ, AFHQv2) as NVIDIA publishes it.

    Example: s4s import edm edm-ffhq-64x64-uncond-vp.pkl --out edm-ffhq.safetensors --allow-unverified
    """
    from s4s.models import convert

    convert.import_edm(pickle, out, sha256, allow_unverified=allow_unverified)
    click.echo(out)


@import_.command("ldm")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@OUT
@click.option("--kind", required=True, help="Which model it is: lsun_bedroom or imagenet256.")
@click.option("--first-stage", type=click.Path(path_type=Path), help="VQ-f4 checkpoint, if not inside the other.")
@SHA256
@click.option("--first-stage-sha256", help="Expected hash of the first stage's file.")
@ALLOW_UNVERIFIED
def import_ldm(checkpoint: Path, out: Path, allow_unverified: bool, **options: Any) -> None:
    """A latent diffusion checkpoint (LSUN-Bedroom, ImageNet-256) as CompVis publishes it.

    EMA weights are taken when the file has them; the second line of the output says so.

    Example: s4s import ldm model.ckpt --kind lsun_bedroom --out lsun_bedroom.safetensors --allow-unverified
    """
    from s4s.models import ldm_convert

    record = ldm_convert.import_ldm(checkpoint, out, allow_unverified=allow_unverified, **options)
    click.echo(out)
    click.echo(f"weights: {record['ema']}")


SOLVER_OUT = click.option("--out", required=True, type=click.Path(path_type=Path), help="The solver file to write.")
FILE = click.argument("file", type=click.Path(path_type=Path))
PROCESS_NAMES = "edm, vp-linear, flow, ldm or sd"  # not read from the registry: --help does not wait for torch
NUMBERS = "Numbers with commas between them"


def textbook(command: Any) -> Any:
    """Options of what is sampled on a grid that was published without weights."""
    name = click.option("--solver", default="ipndm", show_default=True, help="A textbook solver, of `s4s.solvers()`.")
    order = click.option("--order", type=int, help="Its order; default its own.")
    process = click.option("--process", default="edm", show_default=True, help=f"The model's: {PROCESS_NAMES}.")
    return SOLVER_OUT(name(order(process(command))))


@import_.command("grid")
@click.option("--levels", help=f"{NUMBERS}: noise levels, falling.")
@click.option("--times", help=f"{NUMBERS}: training steps (of ldm and sd) or times of the process, falling to data.")
@textbook
def import_grid(levels: str | None, times: str | None, solver: str, order: int | None, process: str, out: Path) -> None:
    """A grid as papers print it (GITS, AYS, DMN, ...), under a textbook solver.

    Example: s4s import grid --levels 80,10.9836,3.8811,1.584,0.5666,0.1698,0.002 --out gits.json
    """
    from s4s.zoo import published

    if (levels is None) == (times is None):
        raise Error("a grid is either --levels or --times")
    own = _process(process)
    found = _numbers(levels) if levels is not None else published.levels_of(_numbers(times or ""), own)
    _save(published.grid(found, own, solver, **_order(order)), out)


@import_.command("ld3")
@FILE
@textbook
def import_ld3(file: Path, solver: str, order: int | None, process: str, out: Path) -> None:
    """Times that LD3 learned (best_v1.pt, best_v2.pt), under the solver they were learned for.

    Example: s4s import ld3 best_v2.pt --solver unipc --order 3 --out ld3.json
    """
    from s4s.zoo import published

    _save(published.ld3(file, _process(process), solver, **_order(order)), out)


def gridded(command: Any) -> Any:
    """Options of a file that does not always say its levels."""
    levels = click.option("--levels", help=f"{NUMBERS}: its levels, where the file does not say them.")
    process = click.option("--process", help=f"Or the process in whose time they are even: {PROCESS_NAMES}.")
    return FILE(SOLVER_OUT(levels(process(command))))


@import_.command("dyweight")
@gridded
def import_dyweight(file: Path, levels: str | None, process: str | None, out: Path) -> None:
    """Weights that DyWeight learned (network-snapshot-000010.pkl).

    Example: s4s import dyweight network-snapshot-000010.pkl --out dyweight.json
    """
    from s4s.zoo import published

    _save(published.dyweight(file, _grid(levels, process)), out)


@import_.command("epd")
@gridded
def import_epd(file: Path, levels: str | None, process: str | None, out: Path) -> None:
    """Parameters that EPD-Solver learned (sd15-best.pkl); each of its steps makes several evaluations.

    Example: s4s import epd sd15-best.pkl --process sd --out epd.json
    """
    from s4s.zoo import published

    _save(published.epd(file, _grid(levels, process)), out)


@import_.command("gs")
@FILE
@SOLVER_OUT
@click.option("--process", help="The model's, where it is not EDM's: vp-linear, ldm or sd, whose times start at 1.")
@click.option("--t-eps", default=1e-3, show_default=True, help="The last time, between 0 and 1.")
def import_gs(file: Path, out: Path, process: str | None, t_eps: float) -> None:
    """Coefficients that GS or GAS learned (10000.pt).

    Example: s4s import gs 10000.pt --out gs.json
    """
    from s4s.zoo import published

    _save(published.gs(file, None if process is None else _process(process), t_eps), out)


def _process(name: str) -> Any:
    from s4s.zoo.published import PROCESSES

    require_choice("process", name, PROCESSES)
    return PROCESSES[name]()


def _order(order: int | None) -> dict[str, int]:
    return {} if order is None else {"order": order}


def _grid(levels: str | None, process: str | None) -> Any:
    if levels is not None and process is not None:
        raise Error("give --levels or --process, not both")
    return _numbers(levels) if levels is not None else None if process is None else _process(process)


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.strip("[]() ").split(",")]
    except ValueError as error:
        raise Error(f"{text[:60]!r} is not numbers with commas between them") from error


def _save(solver: Any, out: Path) -> None:
    save_solvers(solver, out)
    click.echo(f"{out}  {solver.name}, {solver.nfe} evaluations")
