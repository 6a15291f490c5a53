"""Commands on samples: ``s4s sample``, ``features``, ``evaluate``, ``transfer`` and ``paths``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from s4s.cli.common import CONFIG, RESULTS, on_cells, on_shards, open_model, shard_options, single_thread
from s4s.errors import Error
from s4s.stages.config import load


@click.command()
@shard_options
def sample(**asked: Any) -> None:
    """Make and keep the images of some cells, all of them or a range of sample indices. Cells of a method and NFE are
    sampled together and share evaluations where they begin alike.

    Example: s4s sample config/digits.yaml classical_ddim_edm_nfe4 classical_ipndm3_edm_nfe4 --first 0 --last 5000
    """
    from s4s.stages.sample import sample_cells

    on_shards(sample_cells, **asked)


@click.command()
@shard_options
def features(**asked: Any) -> None:
    """Take the features of the images of some cells; images that `s4s sample` has not kept are made and not kept.

    Example: s4s features config/digits.yaml classical_ddim_edm_nfe4 --first 0 --last 5000
    """
    from s4s.stages.features import features_of_cells

    on_shards(features_of_cells, **asked)


@click.command()
@CONFIG
@click.argument("names", metavar="[CELL]...", nargs=-1)
@click.option("--solver", type=click.Path(path_type=Path), help="A solver file to sample with and score instead.")
@click.option("--nfe", type=int, help="With --solver: of a bundle or curve, the solver of this many evaluations.")
@click.option("--polish", is_flag=True, help="With --solver: first go on from that curve, on the config's teacher.")
@RESULTS
def evaluate(
    config: Path, names: Sequence[str], solver: Path | None, nfe: int | None, polish: bool, results: Path
) -> None:
    """Score the images of some cells: FID with its full protocol. Features that are not there are taken first.

    With --solver: samples the config's model with that solver, wherever it was fitted, and scores it as any cell.

    Example: s4s evaluate config/digits.yaml s4s_ipndm3_edm_nfe4_seed0

    Example: s4s evaluate config/ffhq.yaml --solver results/cifar10/solvers/s4s_ipndm3_edm_nfe5_seed0.json

    Example: s4s evaluate config/digits-class.yaml --solver curve.json --nfe 4 --polish
    """
    if bool(names) == (solver is not None):
        raise Error("evaluate takes either cells or --solver FILE; `s4s cells CONFIG` lists the cells")
    if solver is None:
        if nfe is not None or polish:
            raise Error(f"{'--polish' if polish else '--nfe'} belongs to --solver")
        from s4s.stages.evaluate import evaluate_cell

        on_cells(evaluate_cell, config, names, results)
        return
    from s4s.stages.transfer import evaluate_solver

    path, made = evaluate_solver(open_model(load(config), results), solver, nfe, polish)
    click.echo(f"{made['solver']}  {made['nfe']} NFE  {made['fid_label']} {made['fid']:.2f}")
    click.echo(path)


@click.command()
@click.argument("folders", metavar="RESULTS...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--cells", "patterns", multiple=True, default=["s4s-alt_*"], show_default=True,
              help="Which solvers, by the names of their cells; may be given again.")  # fmt: skip
@click.option("--out", default=Path("results/transfer"), show_default=True, type=click.Path(path_type=Path),
              help="Folder of the table.")  # fmt: skip
def transfer(folders: Sequence[Path], patterns: Sequence[str], out: Path) -> None:
    """Use the solvers of several benchmarks on all of them: transfer.csv, transfer.md and transfer.tex.

    Every number must follow from what it was made from, as `s4s verify` says.

    Example: s4s transfer results/digits-class results/digits-class-g4 --cells 's4s-alt_*_nfe5_*'
    """
    from s4s.report.transfer import Use, write_transfers
    from s4s.stages.transfer import uses
    from s4s.stages.verify import require_following

    if len(folders) < 2:
        raise Error("transfer takes the results of two benchmarks or more")
    require_following(folders)
    single_thread()
    made = [Use(*use) for use in uses(folders, patterns)]
    click.echo("\n".join(map(str, write_transfers(made, out / "transfer"))))


@click.command()
@CONFIG
@RESULTS
def paths(config: Path, results: Path) -> None:
    """Measure how far every few-step solver's states are from the teacher's, node by node.

    Example: s4s paths config/digits.yaml
    """
    from s4s.stages.paths import write_paths

    click.echo(write_paths(open_model(load(config), results)))
