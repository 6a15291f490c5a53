#!/usr/bin/env bash
# torchmetrics 1.9.0, PeakSignalNoiseRatioWithBlockedEffect: the blocking is summed over the images and the error is averaged; the
# more images, the worse the value.
#
# Expected: the aggregated PSNR-B of a set of images is one of a typical image of it: for many copies of one pair it is that
# of the pair, as with PSNR, SSIM and the others.
# Seen: 22.9 dB for one pair, 12.4 dB for 16 copies of it, 0.4 dB for 256, in one batch or one by one. The squared error is
# divided by the number of pixels of all images; the squared jumps at the borders of the blocks are summed over all images
# and divided by the number of jumps of ONE image. 256 images in the finer of two codings (24.6 dB on average) get 1.8 dB,
# 4 images in the coarser one (21.9 dB) get 17.1 dB.
#
# The value of one pair is checked against the published formula (Yim and Bovik, 2011), with its counts of jumps.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PYTHON'
from math import log2, log10

import numpy as np
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio_with_blocked_effect as functional
from torchmetrics.image import PeakSignalNoiseRatio, PeakSignalNoiseRatioWithBlockedEffect

SIZE, BLOCK = 64, 8
generator = torch.Generator().manual_seed(0)


def draw(n):
    """n smooth images: low frequencies with random factors."""
    x = torch.linspace(0, 3, SIZE)
    waves = torch.stack([torch.cos(k * x) for k in range(6)])
    factors = torch.randn(n, 6, 6, generator=generator) / (1 + torch.arange(6.0)[:, None] + torch.arange(6.0))
    return (0.5 + 0.2 * torch.einsum("njk,jx,ky->nxy", factors, waves, waves)).clamp(0, 1)[:, None]


def code(images, share):
    """Every block of 8 x 8 moved to its mean by the share: a coding that shows its blocks."""
    means = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(images, BLOCK), scale_factor=BLOCK)
    return torch.lerp(images, means, share)


def value(kind, coded, images, batch):
    metric = kind(data_range=1.0)
    for these, those in zip(coded.split(batch), images.split(batch), strict=True):
        metric.update(these, those)
    return metric.compute().item()


def by_the_book(coded, images):
    """PSNR-B of one pair: the error plus, if the jumps at the borders are the larger ones, their excess."""
    coded, images = coded[0, 0].double().numpy(), images[0, 0].double().numpy()
    at_border = np.arange(SIZE - 1) % BLOCK == BLOCK - 1
    jumps = np.diff(coded, axis=1) ** 2, np.diff(coded, axis=0).T ** 2
    borders = 2 * (SIZE * (SIZE / BLOCK) - 1)
    inside = 2 * SIZE * (SIZE - 1) - borders
    excess = sum(j[:, at_border].sum() for j in jumps) / borders - sum(j[:, ~at_border].sum() for j in jumps) / inside
    blocking = log2(BLOCK) / log2(SIZE) * max(excess, 0)
    return -10 * log10(np.mean((coded - images) ** 2) + blocking)


psnrb, psnr = PeakSignalNoiseRatioWithBlockedEffect, PeakSignalNoiseRatio
images = draw(256)
coarse, fine = code(images, 1.0), code(images, 0.7)
book = by_the_book(coarse[:1], images[:1])
print(f"torchmetrics 1.9.0; one pair, by the published formula: {book:.2f} dB")
seen = {}
for copies in (1, 4, 16, 64, 256):
    pairs = coarse[:1].repeat(copies, 1, 1, 1), images[:1].repeat(copies, 1, 1, 1)
    seen[copies] = value(psnrb, *pairs, copies), value(psnrb, *pairs, 1), functional(*pairs, data_range=1.0).item()
    print(
        f"{copies:3d} copies of it: PSNR {value(psnr, *pairs, copies):.2f}; PSNR-B in one batch {seen[copies][0]:.2f}, "
        f"one by one {seen[copies][1]:.2f}, functional {seen[copies][2]:.2f}"
    )
few, many = value(psnrb, coarse[:4], images[:4], 4), value(psnrb, fine, images, 16)
mean_few = np.mean([by_the_book(coarse[n : n + 1], images[n : n + 1]) for n in range(4)])
mean_many = np.mean([by_the_book(fine[n : n + 1], images[n : n + 1]) for n in range(256)])
print(f"4 images, coarse coding: {few:.2f} (mean of the single values {mean_few:.2f})")
print(f"256 images, fine coding: {many:.2f} (mean of the single values {mean_many:.2f})")

assert all(abs(v - book) < 0.01 for v in seen[1]), (seen, book)
assert all(max(row) - min(row) < 0.01 for row in seen.values()), seen
assert seen[1][0] > seen[4][0] + 3 and seen[4][0] > seen[16][0] + 3 and seen[16][0] > seen[256][0] + 10, seen
assert mean_many > mean_few + 2 and many < few - 5, (few, many, mean_few, mean_many)
print("stands: the value falls with the number of images")
PYTHON
