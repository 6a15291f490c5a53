"""Commands on results: ``s4s cells``, ``table``, ``kinds``, ``figure``, ``verify`` and ``doctor``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import click

from s4s.cli.common import CONFIG, RESULTS
from s4s.stages.artefacts import figures as figures_of
from s4s.stages.cells import cells as all_cells
from s4s.stages.chain import Chain
from s4s.stages.config import load
from s4s.stages.kinds import is_list


@click.command("cells")
@CONFIG
def list_cells(config: Path) -> None:
    """List the cells of a benchmark: everything that is sampled and scored.

    Example: s4s cells config/digits.yaml
    """
    click.echo("\n".join(cell.name for cell in all_cells(load(config))))


@click.command()
@CONFIG
@RESULTS
def table(config: Path, results: Path) -> None:
    """Collect the metrics into fid.csv and the tables (csv, md, tex).

    Example: s4s table config/digits.yaml
    """
    loaded = load(config)
    from s4s import report

    folder, files = results / loaded["benchmark"], _metrics(loaded, results)
    chain = Chain(loaded, folder)
    reads = chain.read(*files, *_config_file(folder))
    report.write_fid_csv(report.collect(files), folder / "fid.csv")
    chain.note(folder / "fid.csv", "table", reads)
    reads = chain.read(folder / "fid.csv")
    made = report.write_tables(files, folder / "tables")
    chain.tidy(folder / "tables", made)
    for path in made:
        chain.note(path, "table", reads)
        click.echo(path)
    click.echo(folder / "fid.csv")


@click.command()
@click.argument("folders", metavar="RESULTS...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", default=Path("results/kinds"), show_default=True, type=click.Path(path_type=Path),
              help="Folder of the table.")  # fmt: skip
def kinds(folders: Sequence[Path], out: Path) -> None:
    """Write one table over several benchmarks' results, as kinds.csv, kinds.md and kinds.tex.

    Every number must follow from what it was made from, as `s4s verify` says.

    Example: s4s kinds results/digits results/digits-vp
    """
    from s4s import report
    from s4s.stages.verify import numbers, require_following

    require_following(folders)
    benchmarks = [numbers(folder) for folder in folders]
    click.echo("\n".join(map(str, report.write_kinds(benchmarks, out / "kinds"))))


@click.command()
@CONFIG
@RESULTS
def figure(config: Path, results: Path) -> None:
    """Draw the figures (png, pdf) and write report.html.

    Example: s4s figure config/digits.yaml
    """
    loaded = load(config)
    from s4s import report

    folder, files = results / loaded["benchmark"], _metrics(loaded, results)
    chain, figures = Chain(loaded, folder), folder / "figures"
    links = [path for path in (folder / "fid.csv", *sorted((folder / "tables").glob("[!.]*.*"))) if path.exists()]
    figures_asked = figures_of(loaded)
    paths = [folder / "paths.json"] * ("distance" in figures_asked)
    reads = chain.read(*files, *links, *paths, *_config_file(folder))
    shown = cache(lambda: report.choose(files))
    draw: dict[str, Callable[[Path], list[Path]]] = {
        "fid_vs_nfe": lambda stem: report.draw_fid(files, stem),
        "fid_vs_calls": lambda stem: report.draw_fid(files, stem, "calls"),
        "imitation": lambda stem: report.draw_imitation(files, stem),
        "gains": lambda stem: report.draw_gains(files, stem),
        "solvers": lambda stem: report.draw_solvers(shown(), folder / "solvers", stem),
        "samples": lambda stem: report.draw_samples(shown(), folder / "features", stem),
        "distance": lambda stem: report.draw_distance(files, shown(), folder / "paths.json", stem),
        "loss_vs_fid": lambda stem: report.draw_loss(files, stem),
        "radius": lambda stem: report.draw_radius(files, stem),
        "teacher_set": lambda stem: report.draw_size(files, stem),
        "ablations": lambda stem: report.draw_choices(files, stem),
        "course": lambda stem: report.draw_course(files, stem),
    }
    made = [path for name in figures_asked for path in draw[name](figures / name)]
    chain.tidy(figures, made)
    report.write_report(files, [path for path in made if path.suffix == ".png"], folder / "report.html", links)
    for path in [*made, folder / "report.html"]:
        chain.note(path, "figure", reads)
        click.echo(path)


@click.command()
@click.argument("folders", metavar="RESULTS...", nargs=-1, required=True, type=click.Path(path_type=Path))
def verify(folders: Sequence[Path]) -> None:
    """Say which numbers of a benchmark's results no longer follow from what is there, and what changed.

    Every byte of every file that a number depends on is hashed: results, model, prompts, reference. Exit status 1 when
    a number does not follow.

    Example: s4s verify results/digits
    """
    from s4s.stages.verify import report

    whole = True
    for folder in folders:
        lines, follows = report(folder)
        click.echo("\n".join(lines))
        whole &= follows
    if not whole:
        sys.exit(1)


@click.command()
@click.argument("configs", metavar="[CONFIG]...", nargs=-1, type=click.Path(path_type=Path))
@RESULTS
@click.option("--tflops", type=click.FloatRange(min=0, min_open=True), help="Sustained TFLOP/s of your GPU.")
def doctor(configs: Sequence[Path], results: Path, tflops: float | None) -> None:
    """Say what is here, what is missing and how to get it, and what each benchmark costs.

    Without configs: all of config/*.yaml. Uses no network. Exit status 1 when something is missing.

    Example: s4s doctor config/digits.yaml
    """
    from s4s.stages.doctor import report
    from s4s.stages.written import read

    shipped = (path for path in sorted(Path("config").glob("*.yaml")) if not is_list(read(path)))
    lines, whole = report(list(configs or shipped), results, tflops)
    click.echo("\n".join(lines))
    if not whole:
        sys.exit(1)


def _config_file(folder: Path) -> list[Path]:
    """The config as Snakemake had it, where it was Snakemake that made the results."""
    return [path for path in [folder / "config.yaml"] if path.exists()]


def _metrics(config: Any, results: Path) -> list[Path]:
    return [results / config["benchmark"] / "metrics" / f"{cell.name}.json" for cell in all_cells(config)]
