"""Commands on networks: ``s4s train`` and ``s4s download``."""

from __future__ import annotations

from pathlib import Path

import click

from s4s.cli.common import CONFIG, RESULTS, open_bench
from s4s.stages.config import load

PARTS = ("network", "scoring")


@click.command()
@CONFIG
@click.argument("network", type=click.Choice(["denoiser", "features", "perceptual"]))
@RESULTS
def train(config: Path, network: str, results: Path) -> None:
    """Train a network of the embedded benchmark.

    Example: s4s train config/digits.yaml denoiser
    """
    from s4s.stages.networks import train_network

    click.echo(train_network(open_bench(load(config), results), network))


@click.command()
@CONFIG
@RESULTS
@click.option("--offline", is_flag=True, help="Never touch the network; say what is missing.")
@click.option("--part", type=click.Choice(PARTS), help="The network, or what samples are scored with; default both.")
def download(config: Path, results: Path, offline: bool, part: str | None) -> None:
    """Fetch and check what a config needs: weights and prompts, then feature extractor and reference statistics.

    Files go to $S4S_CACHE, by default ~/.cache/s4s (hub repositories to the hub's own cache); what is there is not
    fetched again. The weights are converted without executing anything in them.

    Example: s4s download config/cifar10.yaml
    """
    from s4s.stages.download import download_network, download_scoring

    bench = open_bench(load(config), results)
    for stage, name in zip((download_network, download_scoring), PARTS, strict=True):
        if part in (None, name):
            click.echo(stage(bench, offline=offline))
