"""``s4s``: the group of all commands, and how an error reaches the user."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import warnings
from collections.abc import Sequence

import click

from s4s.cli import compare, models, results, scores, solvers
from s4s.cli.import_ import import_
from s4s.cli.learn import learn
from s4s.cli.run import run
from s4s.cli.zoo import zoo
from s4s.errors import Error, Notice
from s4s.version import __version__

_PRINTED = warnings.formatwarning


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="s4s")
def cli() -> None:
    """Learn few-step solvers for diffusion models (S4S and S4S-Alt), and score them.

    Each command is one stage of the pipeline that `snakemake --cores all` runs.

    Example: s4s show results/digits/solvers/s4s-alt_ipndm3_edm_nfe4_seed0.json
    """


for command in (
    learn,
    run,
    models.train,
    models.download,
    solvers.teacher,
    solvers.fit,
    scores.sample,
    scores.features,
    scores.evaluate,
    scores.paths,
    scores.transfer,
    results.table,
    results.kinds,
    results.figure,
    results.verify,
    compare.compare,
    compare.merge,
    solvers.show,
    solvers.check_method,
    import_,
    zoo,
    results.list_cells,
    results.doctor,
):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; bad input ends with one line on stderr and exit status 1."""
    if arguments is None:
        seek_less_garbage()
    warnings.formatwarning = _notice
    warnings.filterwarnings("ignore", message=r".*torch\.jit\.script", category=FutureWarning)  # torch's own doing
    try:
        cli.main(args=None if arguments is None else list(arguments), prog_name="s4s")
    except Error as error:
        if os.environ.get("S4S_TRACEBACK"):
            raise
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "))


def seek_less_garbage() -> None:
    """Loading torch makes 300,000 objects, none of them garbage, which end with the process: to look through them takes
    a quarter of the CPU time of a short command."""
    gc.set_threshold(20_000)
    atexit.register(gc.freeze)


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
