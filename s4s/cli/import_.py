"""``s4s import``: one sub-command a format of published weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

OUT = click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="NAME.safetensors to write, and NAME.json."
)
SHA256 = click.option("--sha256", help="Expected hash of the file, checked before it is read.")
ALLOW_UNVERIFIED = click.option("--allow-unverified", is_flag=True, help="Read a file whose hash you do not know.")


@click.group("import")
def import_() -> None:
    """Turn published weights into safetensors. Nothing in the files is executed.

    Example: s4s import edm edm-cifar10-32x32-uncond-vp.pkl --out edm-cifar10.safetensors --sha256 4d5d...
    """


@import_.command("edm")
@click.argument("pickle", type=click.Path(path_type=Path))
@OUT
@SHA256
@ALLOW_UNVERIFIED
def import_edm(pickle: Path, out: Path, sha256: str | None, allow_unverified: bool) -> None:
    """An EDM pickle (CIFAR-10, FFHQ, AFHQv2) as NVIDIA publishes it.

    Example: s4s import edm edm-ffhq-64x64-uncond-vp.pkl --out edm-ffhq.safetensors --allow-unverified
    """
    from s4s.models import convert

    convert.import_edm(pickle, out, sha256, allow_unverified=allow_unverified)
    click.echo(out)


@import_.command("ldm")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@OUT
@click.option("--kind", required=True, help="Which model it is: lsun_bedroom or imagenet256.")
@click.option("--first-stage", type=click.Path(path_type=Path), help="VQ-f4 checkpoint, if not inside the other.")
@SHA256
@click.option("--first-stage-sha256", help="Expected hash of the first stage's file.")
@ALLOW_UNVERIFIED
def import_ldm(checkpoint: Path, out: Path, allow_unverified: bool, **options: Any) -> None:
    """A latent diffusion checkpoint (LSUN-Bedroom, ImageNet-256) as CompVis publishes it.

    EMA weights are taken when the file has them; the second line of the output says so.

    Example: s4s import ldm model.ckpt --kind lsun_bedroom --out lsun_bedroom.safetensors --allow-unverified
    """
    from s4s.models import ldm_convert

    record = ldm_convert.import_ldm(checkpoint, out, allow_unverified=allow_unverified, **options)
    click.echo(out)
    click.echo(f"weights: {record['ema']}")
