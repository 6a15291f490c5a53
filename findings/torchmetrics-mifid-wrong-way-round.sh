#!/usr/bin/env bash
# torchmetrics 1.9.0, MemorizationInformedFrechetInceptionDistance: the memorization distance is taken from the real images to
# the generated ones, in place of the other way round; a generator of mere copies is not penalized.
#
# Expected: FID divided by the memorization distance, the mean over the GENERATED images of the (cosine) distance to the
# nearest training image, or by 1 where that is above 0.1. Copies are at distance 0, so a generator that returns training
# images only gets a huge value. New images keep their FID, however many are drawn.
# Seen: the mean runs over the REAL images and looks for the nearest generated one. A generator that returns 10 of 200
# training images is near to 10 of them only, so it keeps its plain FID. Drawing more new images brings one of them near
# each real image: 20000 draws of a perfect generator get 17 times their FID. With the two sets handed over in each
# other's place (the FID is the same both ways) the value is the defined one.
#
# The features are drawn directly and the network is the identity: only what is done with features is looked at.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PYTHON'
import torch
from torchmetrics.image.mifid import MemorizationInformedFrechetInceptionDistance

SIZE, LIMIT = 16, 0.1
generator = torch.Generator().manual_seed(0)


def draw(n):
    """Features of n new images: none is negative, as after a ReLU."""
    return torch.rand(n, SIZE, generator=generator) ** 4


def fid(first, second):
    first, second = first.double(), second.double()
    one, two = torch.cov(first.T), torch.cov(second.T)
    root = torch.linalg.eigvals(one @ two).sqrt().real.sum()
    return ((first.mean(0) - second.mean(0)).square().sum() + one.trace() + two.trace() - 2 * root).item()


def distance(these, those):
    """Mean over these of the cosine distance to the nearest of those."""
    these, those = (x.double() / x.double().norm(dim=1, keepdim=True) for x in (these, those))
    return max((1 - these @ those.T).amin(1).mean().item(), 0)


def library(real, fake):
    metric = MemorizationInformedFrechetInceptionDistance(feature=torch.nn.Identity())
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric.compute().item()


real = draw(200)
generators = {
    "2000 copies of 10 real images": real[torch.randint(10, (2000,), generator=generator)],
    "200 new images": draw(200),
    "1000 new images": draw(1000),
    "20000 new images": draw(20000),
}
print(f"torchmetrics 1.9.0, {len(real)} real images")
seen = {}
for name, fake in generators.items():
    plain, right, other = fid(real, fake), distance(fake, real), distance(real, fake)
    value, swapped = library(real, fake), library(fake, real)
    seen[name] = value / plain, swapped / plain, right, other
    print(
        f"{name:30s}FID {plain:.4f}; fake to real {right:.3f}, real to fake {other:.3f}; "
        f"MIFID {value:.4f} = {value / plain:.3g} FID; with the sets in each other's place {swapped / plain:.3g} FID"
    )

for name, (times, swapped, right, other) in seen.items():
    assert abs(times * (other if other < LIMIT else 1) - 1) < 1e-3, (name, times, other)
    if right > 1e-6:
        assert abs(swapped * (right if right < LIMIT else 1) - 1) < 1e-3, (name, swapped, right)
copies, *_, many = seen.values()
assert copies[2] < 1e-6 and abs(copies[0] - 1) < 1e-3 and copies[1] > 1e6, copies
assert many[2] > LIMIT and many[0] > 10 and abs(many[1] - 1) < 1e-3, many
print("stands: copies go unpunished, and many new images do not")
PYTHON
