"""The command line: one sub-command per pipeline stage. Arguments in, files out; heavy imports wait until needed."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from s4s import __version__
from s4s.cells import Cell, teacher_files, teachers
from s4s.cells import cell as find_cell
from s4s.cells import cells as all_cells
from s4s.cli_import import import_
from s4s.cli_shards import CELLS, CONFIG, RESULTS, features, open_bench, sample
from s4s.config import load
from s4s.errors import Error, Notice

_PRINTED = warnings.formatwarning


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="s4s")
def cli() -> None:
    """Learn few-step solvers for diffusion models (S4S and S4S-Alt), and score them.

    Each command is one stage of the pipeline that `snakemake --cores all` runs.

    Example: s4s show results/digits/solvers/s4s-alt_ipndm3_edm_nfe4_seed0.json
    """


@cli.command("cells")
@CONFIG
def list_cells(config: Path) -> None:
    """List the cells of a benchmark: everything that is sampled and scored.

    Example: s4s cells config/digits.yaml
    """
    click.echo("\n".join(cell.name for cell in all_cells(load(config))))


@cli.command()
@CONFIG
@click.argument("network", type=click.Choice(["denoiser", "features", "perceptual"]))
@RESULTS
def train(config: Path, network: str, results: Path) -> None:
    """Train a network of the embedded benchmark.

    Example: s4s train config/digits.yaml denoiser
    """
    stages, bench = open_bench(load(config), results)
    click.echo(stages.train_network(bench, network))


@cli.command()
@CONFIG
@RESULTS
@click.option("--offline", is_flag=True, help="Never touch the network; say what is missing.")
def download(config: Path, results: Path, offline: bool) -> None:
    """Fetch and check what a config needs: weights, feature extractor, reference statistics, prompts.

    Files go to $S4S_CACHE, by default ~/.cache/s4s (hub repositories to the hub's own cache); what is there is not
    fetched again. The weights are converted without executing anything in them.

    Example: s4s download config/cifar10.yaml
    """
    stages, bench = open_bench(load(config), results)
    click.echo(stages.download_model(bench, offline=offline))


@cli.command()
@CONFIG
@RESULTS
@click.option("--nfe", type=int, help="Evaluations of the teacher, where there are several; default all of them.")
@click.option("--first", type=click.IntRange(min=0), help="First sample index of one shard; default all shards.")
def teacher(config: Path, results: Path, nfe: int | None, first: int | None) -> None:
    """Run the strong solver on seeded noises.

    Example: s4s teacher config/digits.yaml
    """
    loaded = load(config)
    jobs = [
        (cell, a, b)
        for cell in teachers(loaded)
        for a, b in teacher_files(loaded, cell).values()
        if nfe in (None, cell.nfe) and first in (None, a)
    ]
    if not jobs:
        raise Error(f"{config}: no teacher has {nfe or 'any'} evaluations and a shard that starts at {first or 0}")
    stages, bench = open_bench(loaded, results)
    for cell, a, b in jobs:
        click.echo(stages.make_teacher(bench, cell, a, b))


@cli.command()
@CONFIG
@CELLS
@RESULTS
def fit(config: Path, names: Sequence[str], results: Path) -> None:
    """Write the solvers of some cells: textbook numbers, or what a method learns from them.

    Example: s4s fit config/digits.yaml s4s-alt_ipndm3_edm_nfe4_seed0
    """
    _each(config, names, results, lambda stages: stages.fit_cell)


@cli.command()
@CONFIG
@click.argument("names", metavar="[CELL]...", nargs=-1)
@click.option("--solver", type=click.Path(path_type=Path), help="A solver file to sample with and score instead.")
@RESULTS
def evaluate(config: Path, names: Sequence[str], solver: Path | None, results: Path) -> None:
    """Score the images of some cells: FID with its full protocol. Features that are not there are taken first.

    With --solver: samples the config's model with that solver, wherever it was fitted, and scores it as any cell.

    Example: s4s evaluate config/digits.yaml s4s_ipndm3_edm_nfe4_seed0

    Example: s4s evaluate config/ffhq.yaml --solver results/cifar10/solvers/s4s_ipndm3_edm_nfe5_seed0.json
    """
    if bool(names) == (solver is not None):
        raise Error("evaluate takes either cells or --solver FILE; `s4s cells CONFIG` lists the cells")
    if solver is None:
        _each(config, names, results, lambda stages: stages.evaluate_cell)
        return
    stages, bench = open_bench(load(config), results)
    path, made = stages.evaluate_solver(bench, solver)
    click.echo(f"{made['solver']}  {made['nfe']} NFE  {made['fid_label']} {made['fid']:.2f}")
    click.echo(path)


@cli.command()
@CONFIG
@RESULTS
def table(config: Path, results: Path) -> None:
    """Collect the metrics into fid.csv and the tables (csv, md, tex).

    Example: s4s table config/digits.yaml
    """
    loaded = load(config)
    from s4s import report

    folder, files = results / loaded["benchmark"], _metrics(loaded, results)
    report.write_fid_csv(report.collect(files), folder / "fid.csv")
    for path in [folder / "fid.csv", *report.write_tables(files, folder / "tables")]:
        click.echo(path)


@cli.command()
@CONFIG
@RESULTS
def figure(config: Path, results: Path) -> None:
    """Draw the figures (png, pdf) and write report.html.

    Example: s4s figure config/digits.yaml
    """
    loaded = load(config)
    from s4s import report

    folder, files = results / loaded["benchmark"], _metrics(loaded, results)
    figures = folder / "figures"
    made = report.draw_fid(files, figures / "fid_vs_nfe")
    if loaded["learned"]["methods"]:
        choice = report.choose(files)
        made += report.draw_solvers(choice, folder / "solvers", figures / "solvers")
        made += report.draw_samples(choice, folder / "features", figures / "samples")
        made += report.draw_loss(files, figures / "loss_vs_fid")
        made += report.draw_radius(files, figures / "radius") if report.has_radii(files) else []
    links = [folder / "fid.csv", *sorted((folder / "tables").glob("[!.]*.*"))]
    report.write_report(files, [path for path in made if path.suffix == ".png"], folder / "report.html", links)
    for path in [*made, folder / "report.html"]:
        click.echo(path)


@cli.command()
@click.argument("solver", type=click.Path(path_type=Path))
def show(solver: Path) -> None:
    """Print a solver file: grid, evaluation levels and weights.

    Example: s4s show solver.json
    """
    from s4s.show import describe
    from s4s.solver import load_solver

    click.echo(describe(load_solver(solver)))


@cli.command()
@click.argument("configs", metavar="[CONFIG]...", nargs=-1, type=click.Path(path_type=Path))
@RESULTS
@click.option("--tflops", type=click.FloatRange(min=0, min_open=True), help="Sustained TFLOP/s of your GPU.")
def doctor(configs: Sequence[Path], results: Path, tflops: float | None) -> None:
    """Say what is here, what is missing and how to get it, and what each benchmark costs.

    Without configs: all of config/*.yaml. Uses no network. Exit status 1 when something is missing.

    Example: s4s doctor config/digits.yaml
    """
    from s4s.doctor import report

    lines, whole = report(list(configs) or sorted(Path("config").glob("*.yaml")), results, tflops)
    click.echo("\n".join(lines))
    if not whole:
        sys.exit(1)


for command in (import_, sample, features):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; bad input ends with one line on stderr and exit status 1."""
    warnings.formatwarning = _notice
    try:
        cli.main(args=None if arguments is None else list(arguments), prog_name="s4s")
    except Error as error:
        if os.environ.get("S4S_TRACEBACK"):
            raise
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "))


def _notice(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """How a warning is printed: our own in one line, others as ever."""
    if issubclass(category, Notice):
        return f"s4s: {message}\n"
    return _PRINTED(message, category, filename, lineno, line)


def _fail(message: str) -> None:
    click.echo(f"s4s: {' '.join(message.split())}", err=True)
    sys.exit(1)


def _each(config: Path, names: Sequence[str], results: Path, pick: Callable[[Any], Callable[..., Path]]) -> None:
    """Run one stage on some cells, in order."""
    loaded = load(config)
    chosen: list[Cell] = [find_cell(loaded, name) for name in names]
    stages, bench = open_bench(loaded, results)
    for cell in chosen:
        click.echo(pick(stages)(bench, cell))


def _metrics(config: Any, results: Path) -> list[Path]:
    return [results / config["benchmark"] / "metrics" / f"{cell.name}.json" for cell in all_cells(config)]
