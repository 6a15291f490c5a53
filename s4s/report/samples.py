"""A figure of samples: every solver from the same noises, one row each."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from s4s import records
from s4s.errors import Error
from s4s.report.choose import Choice
from s4s.report.style import drawing, save

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Row:
    """One row of the grid: two lines of label, and the images, uint8 [n, H, W] or [n, H, W, C]."""

    title: str
    remark: str
    images: Images


def read_images(path: Path) -> Images:
    """The first images of a cell.

    Raises:
        Error: the file is missing, damaged, or does not hold uint8 images under ``images`` ([n, H, W], [n, H, W, C] or
            [n, C, H, W] with 1 or 3 channels).
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            images = data["images"]
    except OSError as error:
        raise Error(f"{path}: cannot read the samples: {error.strerror or error}") from error
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise Error(f"{path}: not a samples file, or a truncated one ({error}); sample the cell again") from error
    shape = images.shape
    if images.ndim == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
        images = np.moveaxis(images, 1, 3)
    flat = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    if images.dtype != np.uint8 or not flat or not images.size:
        raise Error(f"{path}: 'images' is {images.dtype} {list(shape)}, needs uint8 [n, H, W] or [n, H, W, C]")
    return np.asarray(images, dtype=np.uint8)


def samples_file(directory: Path, cell: str) -> Path:
    """Where the first samples of a cell are: the first shard that it was scored on, or else in the folder ``<cell>``.

    Without such a folder it is ``<cell>.npz``. Names that begin with a dot are what killed jobs left half written.
    """
    scored, folder = records.read(directory.parent, f"metrics/{cell}.json"), f"{directory.name}/{cell}/"
    if shards := [name for name in (scored.reads if scored else ()) if name.startswith(folder)]:
        return directory.parent / min(shards)
    return min((directory / cell).glob("[!.]*.npz"), default=directory / f"{cell}.npz")


def draw_samples(choice: Choice, directory: Path, stem: Path, columns: int = 12) -> list[Path]:
    """The chosen cells' first samples; a column shares its starting noise.

    Args:
        choice: from ``s4s.report.choose``.
        directory: where the samples lie, ``<cell>.npz`` or ``<cell>/<shard>.npz``.
        stem: the figure's path without a suffix.
        columns: at most this many samples.
    """
    rows = []
    for method, record in choice.cells.items():
        images = read_images(samples_file(directory, record["cell"]))
        rows.append(Row(choice.label(method), f"{record['nfe']} NFE, FID {record['fid']:.2f}", images[:columns]))
    return draw_rows(rows, stem)


def draw_rows(rows: Sequence[Row], stem: Path) -> list[Path]:
    """A labelled grid of images.

    Raises:
        Error: rows hold images of different sizes.
    """
    shapes = {row.images.shape[1:] for row in rows}
    if len(shapes) != 1:
        raise Error(f"the samples to show have different shapes: {', '.join(map(str, sorted(shapes)))}")
    columns = min(len(row.images) for row in rows)
    with drawing():
        figure = Figure(figsize=(0.62 * columns, 0.7 * len(rows)))
        for i, row in enumerate(rows):
            axes = figure.add_subplot(len(rows), 1, i + 1)
            strip = _strip(row.images[:columns])
            axes.imshow(strip, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="equal")
            axes.axis("off")
            place: dict[str, Any] = {
                "xycoords": "axes fraction",
                "textcoords": "offset points",
                "ha": "right",
                "annotation_clip": False,
            }
            axes.annotate(row.title, (0, 0.5), xytext=(-8, 1), va="bottom", weight="bold", fontsize=9, **place)
            axes.annotate(row.remark, (0, 0.5), xytext=(-8, -2), va="top", fontsize=7.5, color="#555555", **place)
        figure.subplots_adjust(left=0, right=1, bottom=0, top=1, hspace=0.05)
        return save(figure, stem)


def _strip(images: Images) -> Images:
    """Images [n, H, W, ...] side by side with white gaps."""
    gap = max(1, images.shape[2] // 16)
    scale = max(1, 64 // images.shape[1])  # small images keep hard pixel edges in viewers that smooth
    grown = images.repeat(scale, axis=1).repeat(scale, axis=2)
    pad = [(0, 0), (0, 0), (0, gap * scale), *[(0, 0)] * (images.ndim - 3)]
    padded = np.pad(grown, pad, constant_values=255)
    strip = np.concatenate(list(padded), axis=1)[:, : -gap * scale]
    return strip[..., 0] if strip.ndim == 3 and strip.shape[-1] == 1 else strip
