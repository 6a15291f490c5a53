#!/usr/bin/env bash
# torchmetrics 1.9.0, RelativeAverageSpectralError: too large by the square of the window, 64 times with the default window.
#
# Expected: the error as a percentage of the mean brightness, 100/M times the root of the mean over the bands of RMSE^2, in each
# window, averaged over the windows. If all pixels are off by 10 % of a flat image's brightness it is 10, with any window: the
# size says where the error is averaged, not in which unit.
# Seen: 640 with the default window of 8, 40 with 2 and 2560 with 16. Error and brightness are both averaged over the window (by a
# filter whose weights sum to 1), and the mean of the brightness is then divided by the number of pixels of the window
# once more. So values for two windows cannot be compared, and none can be read as a percentage. The package's RMSE in
# windows, which the error is built on, is right.
#
# Besides the flat image, random images of three bands are compared with the definition, window by window.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PYTHON'
import numpy as np
import torch
from torchmetrics.image import RelativeAverageSpectralError, RootMeanSquaredErrorUsingSlidingWindow

SIZE = 64


def value(kind, images, truth, window):
    metric = kind(window_size=window)
    metric.update(images, truth)
    return metric.compute().item()


def windows(image, window):
    """The values of every window that lies in the image: shape (bands, places, places, window, window)."""
    return np.lib.stride_tricks.sliding_window_view(image, (window, window), axis=(1, 2))


def by_the_book(image, truth, window):
    """RASE and RMSE of one image of several bands, averaged over its windows."""
    squared = windows((image - truth) ** 2, window).mean(axis=(3, 4))
    brightness = windows(truth, window).mean(axis=(0, 3, 4))
    return np.mean(100 / brightness * np.sqrt(squared.mean(axis=0))), np.mean(np.sqrt(squared))


flat = torch.full((4, 3, SIZE, SIZE), 0.5, dtype=torch.float64)
generator = torch.Generator().manual_seed(0)
truth = 0.3 + 0.4 * torch.rand(1, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
image = truth + 0.05 * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
print("torchmetrics 1.9.0")
seen = {}
for window in (2, 4, 8, 16):
    off = value(RelativeAverageSpectralError, 1.1 * flat, flat, window)
    rase, rmse = (
        value(kind, image, truth, window)
        for kind in (RelativeAverageSpectralError, RootMeanSquaredErrorUsingSlidingWindow)
    )
    true_rase, true_rmse = by_the_book(image[0].numpy(), truth[0].numpy(), window)
    seen[window] = off / 10, rase / true_rase, rmse / true_rmse
    print(
        f"window {window:2d}: 10 % too bright {off:.1f}; random image {rase:.1f}, by the definition {true_rase:.2f}; "
        f"its RMSE {rmse:.5f}, by the definition {true_rmse:.5f}"
    )

default = RelativeAverageSpectralError().window_size
assert default == 8, default
for window, (off, rase, rmse) in seen.items():
    assert abs(off / window**2 - 1) < 1e-3, (window, off)
    assert abs(rase / window**2 - 1) < 0.03, (window, rase)  # the package leaves out a row and a column of windows
    assert abs(rmse - 1) < 0.03, (window, rmse)
print("stands: too large by the square of the window")
PYTHON
