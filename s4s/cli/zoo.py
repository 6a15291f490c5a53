"""``s4s zoo``: the solvers that come with the package."""

from __future__ import annotations

from pathlib import Path

import click

from s4s.cli.common import save_solvers


@click.group()
def zoo() -> None:
    """Fitted solvers that come with the package, each with a card of what it is for.

    Example: s4s zoo list
    """


@zoo.command("list")
def list_() -> None:
    """Their names, models and scores.

    Example: s4s zoo list
    """
    from s4s.zoo import shelf

    click.echo(shelf.overview())


@zoo.command()
@click.argument("name")
def show(name: str) -> None:
    """The card of one, and its tables.

    Example: s4s zoo show digits-s4s-alt
    """
    from s4s.show import card, describe
    from s4s.zoo import shelf

    found = shelf.bundle(name)
    click.echo("\n\n".join([card(found.provenance), *map(describe, found.values())]))


@zoo.command()
@click.argument("name")
@click.argument("out", type=click.Path(path_type=Path))
def save(name: str, out: Path) -> None:
    """Write one as a bundle file of your own, for S4SScheduler, ComfyUI and `s4s evaluate CONFIG --solver FILE`.

    Example: s4s zoo save digits-s4s-alt solvers.json
    """
    from s4s.zoo import shelf

    save_solvers(shelf.bundle(name), out)
    click.echo(out)
