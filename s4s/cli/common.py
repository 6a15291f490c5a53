"""What commands share: their arguments, the bench they work on, and one stage run over cells or shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from s4s.errors import Error
from s4s.files import at_home, require_place
from s4s.stages.cells import Cell, shards
from s4s.stages.cells import cell as find_cell
from s4s.stages.config import load


def placed(context: click.Context, parameter: click.Parameter, results: Path) -> Path:
    """A folder of results, before hours go into it: at home, where it begins with ``~``, and not a link to nowhere."""
    require_place(results := at_home(results))
    return results


CONFIG = click.argument("config", type=click.Path(path_type=Path))
RESULTS = click.option(
    "--results",
    default="results",
    show_default=True,
    type=click.Path(path_type=Path),
    callback=placed,
    help="Folder of all results.",
)
CELLS = click.argument("names", metavar="CELL...", nargs=-1, required=True)


def single_thread() -> None:
    """One torch thread: results must not depend on the cores at hand."""
    import torch

    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32: fits take differences of network outputs


def save_solvers(found: Any, out: Path) -> None:
    """Write a solver or a bundle, in the place of another if need be, and of nothing else."""
    from s4s.bundle import load_bundle

    if (out := at_home(out)).exists():
        try:
            load_bundle(out)
        except Error as error:
            raise Error(f"{out}: is there, and no file of solvers; name another") from error
    found.save(out)


def open_bench(config: Any, results: Path) -> Any:
    """What the stages work on."""
    single_thread()
    from s4s.learn.memory import keep_freed
    from s4s.stages.bench import Bench

    keep_freed()
    return Bench(config, results)


def open_model(config: Any, results: Path) -> Any:
    """The same with its network, which need not have been fetched before where it is on this machine."""
    bench = open_bench(config, results)
    if not bench.trained and not bench.folder.weights.exists():
        from s4s.stages.download import download_network

        try:
            download_network(bench, offline=True)
        except Error as error:
            raise Error(f"{error}; or run `s4s download CONFIG` where there is a network") from error
    return bench


def on_cells(stage: Callable[..., Path], config: Path, names: Sequence[str], results: Path) -> None:
    """Run one stage on some cells, in order."""
    loaded = load(config)
    chosen = [find_cell(loaded, name) for name in names]
    bench = open_model(loaded, results)
    for cell in chosen:
        click.echo(stage(bench, cell))


def on_shards(
    stage: Callable[..., list[Path]],
    config: Path,
    names: Sequence[str],
    first: int | None,
    last: int | None,
    results: Path,
) -> None:
    """Run one stage on some cells, those of a method and NFE together, on a range of indices or on all shards."""
    loaded = load(config)
    ranges = shards(loaded) if first is last is None else [(first or 0, last or loaded["sample"]["n"])]
    chosen = [find_cell(loaded, name) for name in names]
    bench = open_model(loaded, results)
    together: dict[tuple[str, int], list[Cell]] = {}
    for cell in chosen:
        together.setdefault((cell.kind, cell.nfe), []).append(cell)
    for cells in together.values():
        for a, b in ranges:
            for path in stage(bench, cells, a, b):
                click.echo(path)


def shard_options(command: Callable[..., None]) -> Callable[..., None]:
    """Arguments of the commands that work on a range of samples."""
    first = click.option("--first", type=click.IntRange(min=0), help="First sample index; default 0.")
    last = click.option("--last", type=click.IntRange(min=1), help="Index after the last one; default the config's n.")
    return CONFIG(CELLS(first(last(RESULTS(command)))))
