"""``s4s run``: a whole benchmark, with its plan before it starts, its progress, and its headline at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import Any

import click

from s4s.errors import Error, extra
from s4s.stages import plan
from s4s.stages.cells import cells
from s4s.stages.config import check
from s4s.stages.kinds import is_list, parts, place

MOST = 4  # processes that time at once
LOCKED = ("not started: another run is at work in this folder, or was killed there and left its lock; when none is at"
          " work, the same command with --unlock removes it, and without it goes on")  # fmt: skip


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", metavar="[CONFIG] [SNAKEMAKE OPTION]...", nargs=-1, type=click.UNPROCESSED)
def run(arguments: Sequence[str]) -> None:
    """Run a benchmark: `snakemake` with its plan said first, its progress shown, and its headline last.

    Without CONFIG: the digits. What was done before stays done. Options are Snakemake's: -n says what would run,
    --cores how many jobs run at once (default all).

    Example: s4s run config/digits-full.yaml --cores 4
    """
    options, asked = parsed(list(arguments))
    elsewhere = asked.profile or asked.executor  # where jobs run on other machines, this one's time says nothing
    cores = 1 if elsewhere else cores_of(asked)
    if not elsewhere and asked.cores is None and asked.jobs is None:
        options += ["--cores", "all"]
    if (loaded := effective(asked)) is None or asked.unlock:  # each of a list's benchmarks runs as this command does
        sys.exit(plain(options))
    each: dict[str, float] = {}
    if not elsewhere and loaded["model"]["type"] == "digits":
        click.echo("timing this machine ...", err=True)
        each = job_seconds(loaded, cores)
    code = snakemake(options, loaded, each, cores)
    if not asked.dryrun:
        from s4s.cli.watch import LogHandler

        results = Path(asked.directory or ".") / "results"
        say_end(loaded, results, code, planned=LogHandler.planned, locked=LogHandler.locked)
    sys.exit(code)


def parsed(arguments: list[str]) -> tuple[list[str], Any]:
    """Options for Snakemake, and as it reads them: CONFIG, if it is first, before all other files of values."""
    with extra("workflow"):
        from snakemake.cli import get_argument_parser

    parser = get_argument_parser()
    if not (arguments and Path(arguments[0]).suffix in (".yaml", ".yml")):
        with one_line():
            return arguments, parser.parse_args(arguments)
    config, *options = arguments
    with one_line():
        further = parser.parse_args(options).configfile or []
        options += ["--configfile", config, *map(str, further)]  # the last of an option counts
        return options, parser.parse_args(options)


@contextmanager
def one_line() -> Iterator[None]:
    """What Snakemake says of an option's value that it cannot read, as ours."""
    with extra("workflow"):
        from snakemake.exceptions import CliException

    try:
        yield
    except (CliException, ValueError) as error:
        raise Error(" ".join(str(error).split())) from error


def cores_of(asked: Any) -> int:
    """How many jobs run at once on this machine: ``--cores``, else ``--jobs``, else all of its cores."""
    with extra("workflow"):
        from snakemake.cli import parse_cores

    for option, given in (("--cores", asked.cores), ("--jobs", asked.jobs)):
        if given is not None and given < 1:
            raise Error(f"{option}: nothing can run on {given} cores; give 1 or more, or leave it out for all")
        if given is not None:
            return int(given)
    return int(parse_cores("all"))


def effective(asked: Any) -> dict[str, Any] | None:
    """The config as Snakemake makes it of files and values on the command line, checked; None for a list of them."""
    with extra("workflow"):
        from snakemake.cli import parse_config
        from snakemake.settings.types import ConfigSettings

    from s4s.stages.written import read

    pipeline = Path(asked.snakefile or "Snakefile")
    if not pipeline.exists():
        raise Error("no Snakefile here: `s4s run` works in a checkout of the project, or with --snakefile")
    files = asked.configfile or [pipeline.parent / "config" / "digits.yaml"]
    for path in files:
        read(path)
    with one_line():
        values = parse_config(asked.config)
    made = ConfigSettings(config=values, configfiles=files).overwrite_config
    if is_list(made):
        parts(made, place(files))
        return None
    return check(made)


def plain(options: list[str]) -> int:
    """Snakemake's own command line, as it is. Returns its exit status."""
    with extra("workflow"):
        from snakemake.cli import main

    try:
        main(options)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def snakemake(options: list[str], config: Mapping[str, Any], each: Mapping[str, float], cores: int) -> int:
    """Snakemake's own command line in this process, with our logger. Returns its exit status."""
    with extra("workflow"):
        from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

    from s4s.cli import watch

    watch.LogHandler.describe = staticmethod(lambda left: plan.lines(config, left, each, cores))
    watch.LogHandler.each, watch.LogHandler.cores = each, cores
    LoggerPluginRegistry().register_plugin("snakemake_logger_plugin_s4s", watch)
    return plain([*options, "--logger", "s4s"])


def job_seconds(config: Mapping[str, Any], cores: int) -> dict[str, float]:
    """CPU seconds of a job, by stage, timed in as many processes as jobs run at once; empty where that fails."""
    command = [sys.executable, "-m", "s4s.stages.pace", json.dumps(config)]  # torch stays out of this process
    runs = [Popen(command, stdout=PIPE, stderr=DEVNULL, text=True) for _ in range(max(min(cores, MOST), 1))]
    said = [run.communicate()[0] for run in runs]
    if any(run.returncode for run in runs):
        return {}
    found = [json.loads(text) for text in said]
    return {stage: sum(each[stage] for each in found) / len(found) for stage in found[0]}


def say_end(config: Mapping[str, Any], results: Path, code: int, *, planned: bool, locked: bool) -> None:
    """The headline's numbers, and where the report is; nothing where a part of the benchmark was asked for.

    Of a run that failed, what to do; nothing where it came to no plan, for Snakemake has said why.
    """
    folder = results / config["benchmark"]
    files = [folder / "metrics" / f"{cell.name}.json" for cell in cells(config)]
    if code and locked:
        click.echo(LOCKED, err=True)
    elif code and planned:
        click.echo("not finished: what is done stays, and the same command goes on from there", err=True)
    elif not code and all(path.exists() for path in [*files, folder / "report.html"]):
        from s4s.report import say_headline

        click.echo(say_headline(files))
        click.echo(folder / "report.html")
