"""Commands on several results: ``s4s compare`` and ``s4s merge``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from s4s.errors import Error

if TYPE_CHECKING:
    from s4s.report.compare import Moved


@click.command()
@click.argument("folders", metavar="A [B]", nargs=-1, required=True, type=click.Path(path_type=Path))
def compare(folders: Sequence[Path]) -> None:
    """Compare a run with what was published, or two runs with each other.

    Of one folder of results: our numbers beside the published ones, and in what the protocols differ. Of two: which
    cells moved, by how many standard deviations of sampling and of fit seeds, and which link of the chain differs.

    Example: s4s compare results/cifar10

    Example: s4s compare results/digits ~/theirs/results/digits
    """
    if len(folders) == 1:
        _published(folders[0])
    elif len(folders) == 2:
        _runs(*folders)
    else:
        raise Error(f"compare takes one or two folders of results, got {len(folders)}; `s4s merge` takes any number")


@click.command()
@click.argument("folders", metavar="RESULTS...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New folder for the merged tables.")
def merge(folders: Sequence[Path], out: Path) -> None:
    """Put several runs, of several people, into one table: one for each protocol and network, none mixed.

    Every number must follow from what it was made from, as `s4s verify` says.

    Example: s4s merge results/digits ~/theirs/results/digits --out results/merged
    """
    from s4s.report.merge import merge as merged
    from s4s.stages.verify import numbers, require_following

    require_following(folders)
    for path in merged({str(folder): numbers(folder) for folder in folders}, out):
        click.echo(path)


def _published(folder: Path) -> None:
    from s4s.report.data import read_records, scores, to_frame
    from s4s.report.published import PROTOCOLS, differences, free_step_table, published_table
    from s4s.report.render import markdown
    from s4s.stages.verify import numbers

    records = read_records(numbers(folder))
    table = published_table(scores(to_frame(records)), records)
    if table is None:
        known = ", ".join(PROTOCOLS)
        raise Error(f"{folder}: nothing was published for benchmark {records[0]['benchmark']!r}; of these there is: "
                    f"{known}; `s4s compare A B` compares two runs")  # fmt: skip
    click.echo(markdown(table))
    if free := free_step_table(records[0]["benchmark"]):
        click.echo(markdown(free))
    said = differences(records)
    click.echo("\n".join(f"protocols differ: {line}" for line in said) or "protocols agree, as far as the sources say")


def _runs(a: Path, b: Path) -> None:
    from s4s.report.compare import FAR, compare
    from s4s.stages.verify import numbers

    made = compare((a, numbers(a)), (b, numbers(b)))
    for line in made.unlike:
        click.echo(f"protocols differ, so the numbers do not compare: {line}")
    for line in made.made_by:
        click.echo(f"made by: {line}")
    for run, cells in made.only.items():
        if cells:
            click.echo(f"not in {run}: {len(cells)} cells ({cells[0]}{', ...' * (len(cells) > 1)})")
    _moved(made.moved)
    _links({cell.cell: cell.links for cell in made.moved})
    far = sum(cell.far is True for cell in made.moved)
    said = (
        f"{made.same} cells are the same to the last bit, {len(made.moved)} moved, {far} of them by more than {FAR:g} "
    )
    click.echo(said + "standard deviations (*)" + "; of (?) it is not known" * any(c.far is None for c in made.moved))


def _moved(cells: Sequence[Moved]) -> None:
    """A line a cell, under a head."""
    width = max((len(cell.cell) for cell in cells), default=0)
    if cells:
        click.echo(f"{'cell':<{width}}  {'FID of A':>9} {'of B':>9} {'change':>7}  of sampling   of seeds")
    for cell in cells:
        deviations = [f"{'-' if z is None else f'{z:+.1f} std':>10}" for z in (cell.of_sampling, cell.of_seeds)]
        share = f"{cell.after / cell.before - 1:+.1%}" if cell.before else ""
        numbers = f"{cell.before:9.4g} {cell.after:9.4g} {share:>7}"
        mark = {True: "  *", False: "", None: "  ?"}[cell.far]
        click.echo(f"{cell.cell:<{width}}  {numbers}   {'  '.join(deviations)}{mark}")


def _links(links: dict[str, tuple[str, ...]]) -> None:
    """Each link that differs, once, with the number of cells behind it."""
    of: dict[str, list[str]] = {}
    for cell, lines in links.items():
        for line in lines:
            of.setdefault(line, []).append(cell)
    for line, cells in of.items():
        click.echo(f"differs, behind {len(cells)} of them: {line}")
