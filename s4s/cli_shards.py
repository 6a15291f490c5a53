"""What commands on cells share, and those that work on shards of samples: ``s4s sample`` and ``s4s features``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from s4s.cells import cell as find_cell
from s4s.cells import shards
from s4s.config import load

CONFIG = click.argument("config", type=click.Path(path_type=Path))
RESULTS = click.option(
    "--results", default="results", show_default=True, type=click.Path(path_type=Path), help="Folder of all results."
)
CELLS = click.argument("names", metavar="CELL...", nargs=-1, required=True)


def open_bench(config: Any, results: Path) -> tuple[Any, Any]:
    """The stages and what they work on; one torch thread: results must not depend on the cores at hand."""
    import torch

    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32: fits take differences of network outputs
    from s4s import stages
    from s4s.memory import keep_freed

    keep_freed()
    return stages, stages.Bench(config, results)


def on_shards(
    pick: Callable[[Any], Callable[..., Path]],
    config: Path,
    names: Sequence[str],
    first: int | None,
    last: int | None,
    results: Path,
) -> None:
    """Run one stage on some cells, on a range of sample indices or on all shards of the config."""
    loaded = load(config)
    ranges = shards(loaded) if first is last is None else [(first or 0, last or loaded["sample"]["n"])]
    chosen = [find_cell(loaded, name) for name in names]
    stages, bench = open_bench(loaded, results)
    for cell in chosen:
        for a, b in ranges:
            click.echo(pick(stages)(bench, cell, a, b))


def shard_options(command: Callable[..., None]) -> Callable[..., None]:
    """Arguments of the commands that work on a range of samples."""
    first = click.option("--first", type=click.IntRange(min=0), help="First sample index; default 0.")
    last = click.option("--last", type=click.IntRange(min=1), help="Index after the last one; default the config's n.")
    return CONFIG(CELLS(first(last(RESULTS(command)))))


@click.command()
@shard_options
def sample(**asked: Any) -> None:
    """Make and keep the images of some cells, all of them or a range of sample indices.

    Example: s4s sample config/digits.yaml classical_ddim_edm_nfe4 --first 0 --last 5000
    """
    on_shards(lambda stages: stages.sample_cell, **asked)


@click.command()
@shard_options
def features(**asked: Any) -> None:
    """Take the features of the images of some cells; images that `s4s sample` has not kept are made and not kept.

    Example: s4s features config/digits.yaml classical_ddim_edm_nfe4 --first 0 --last 5000
    """
    on_shards(lambda stages: stages.make_features, **asked)
