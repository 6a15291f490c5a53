"""``s4s run``: a whole benchmark, with its plan before it starts, its progress, and its headline at the end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import Any

import click

from s4s.errors import Error
from s4s.stages import plan
from s4s.stages.cells import cells
from s4s.stages.config import load

DEFAULT = "config/digits.yaml"
MOST = 4  # processes that time at once


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--configfile", help="The same as CONFIG.")
@click.option("--cores", "-c", default="all", show_default=True, help="How many jobs run at once.")
@click.option("--directory", "-d", default=".", help="Where results and logs go; default here.")
@click.option("--dry-run", "-n", is_flag=True, help="Say what would run.")
@click.argument("arguments", metavar="[CONFIG] [SNAKEMAKE OPTION]...", nargs=-1, type=click.UNPROCESSED)
def run(arguments: Sequence[str], configfile: str | None, cores: str, directory: str, dry_run: bool) -> None:
    """Run a benchmark: `snakemake` with its plan said first, its progress shown, and its headline last.

    Without CONFIG: the digits. What was done before stays done; other options go to Snakemake.

    Example: s4s run config/digits-full.yaml --cores 4
    """
    given = list(arguments)
    named = given.pop(0) if given and Path(given[0]).suffix in (".yaml", ".yml") else None
    path = configfile or named or DEFAULT
    if cores != "all" and not cores.isdigit():
        raise Error(f"--cores {cores}: must be a number, or all")
    if not Path("Snakefile").exists():
        raise Error("no Snakefile here: `s4s run` works in a checkout of the project")
    loaded = load(Path(path))
    n = (
        int(cores)
        if cores != "all"
        else len(os.sched_getaffinity(0))
        if sys.platform == "linux"
        else os.cpu_count() or 1
    )
    click.echo("timing this machine ...", err=True)
    options = ["--configfile", path, "--cores", cores, "--directory", directory, *["--dry-run"] * dry_run, *given]
    code = snakemake(options, loaded, job_seconds(loaded, n), n)
    if code == 0 and not dry_run:
        say_results(loaded, Path(directory) / "results")
    if code and not dry_run:
        click.echo("not finished: what is done stays, and the same command goes on from there", err=True)
    sys.exit(code)


def snakemake(options: list[str], config: Mapping[str, Any], each: Mapping[str, float], cores: int) -> int:
    """Snakemake's own command line in this process, with our logger. Returns its exit status."""
    from snakemake.cli import main
    from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

    from s4s.cli import watch

    watch.LogHandler.describe = staticmethod(lambda left: plan.lines(config, left, each, cores))
    watch.LogHandler.each, watch.LogHandler.cores = each, cores
    LoggerPluginRegistry().register_plugin("snakemake_logger_plugin_s4s", watch)
    try:
        main([*options, "--logger", "s4s"])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def job_seconds(config: Mapping[str, Any], cores: int) -> dict[str, float]:
    """CPU seconds of a job, by stage, timed in as many processes as jobs run at once.

    Empty, and the plan has no time, for published models and where the timing fails.
    """
    if config["model"]["type"] != "digits":
        return {}
    command = [sys.executable, "-m", "s4s.stages.pace", json.dumps(config)]  # torch stays out of this process
    runs = [Popen(command, stdout=PIPE, stderr=DEVNULL, text=True) for _ in range(max(min(cores, MOST), 1))]
    said = [run.communicate()[0] for run in runs]
    if any(run.returncode for run in runs):
        return {}
    found = [json.loads(text) for text in said]
    return {stage: sum(each[stage] for each in found) / len(found) for stage in found[0]}


def say_results(config: Mapping[str, Any], results: Path) -> None:
    """The headline's numbers, and where the report is; nothing where a part of the benchmark was asked for."""
    folder = results / config["benchmark"]
    files = [folder / "metrics" / f"{cell.name}.json" for cell in cells(config)]
    if all(path.exists() for path in [*files, folder / "report.html"]):
        from s4s.report import say_headline

        click.echo(say_headline(files))
        click.echo(folder / "report.html")
