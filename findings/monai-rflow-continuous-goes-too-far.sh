#!/usr/bin/env bash
# monai 1.6.1, RFlowScheduler(use_discrete_timesteps=False): the steps add up to more than the way from noise to data, up to 1.25 times.
#
# Expected: with continuous times, n steps of 1/n lead from time 1 to 0, whatever n is, as with discrete times, but for the
# rounding of these.
# Seen: DiffusionInferer hands each step its time and the next one, and the step cuts the next one down to a whole number (of
# thousandths), but not its own: at 700 steps the first goes from 1000 to 998 and the second begins at 998.5. Each step is too
# long by up to a thousandth, a third of one on the average with 300 and 700 steps, so more steps are worse: data of standard
# deviation 0.3 come out with 0.26 and 0.22. The list of times is kept in float16 besides, so that times above 512 are multiples
# of 1/2. Only numbers of steps that make the times whole are right. Euler steps of 1/n with the same network are right for all.
#
# The problem is exact: Gaussian data, whose best velocity is known in closed form. The map from noise to sample is a straight
# line, so two starts give mean and spread of the samples.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 monai==1.6.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PYTHON'
import torch
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import RFlowScheduler

MEAN, SPREAD = 0.4, 0.3
START = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1, 1)


def velocity(x, timesteps, context=None):
    """The mean of data minus noise, given x = (1 - t) data + t noise."""
    t = timesteps.double() / 1000
    rest = (x - (1 - t) * MEAN) / (((1 - t) * SPREAD) ** 2 + t**2)
    return MEAN + ((1 - t) * SPREAD**2 - t) * rest


def by_the_package(steps, discrete):
    """Mean and spread of the samples, and the sum of the steps: how far a velocity of 1 leads."""
    scheduler = RFlowScheduler(use_discrete_timesteps=discrete)
    scheduler.set_timesteps(steps)
    inferer = DiffusionInferer(scheduler)
    low, high = inferer.sample(START, velocity, verbose=False).flatten().tolist()
    way = inferer.sample(0 * START, lambda x, timesteps, context: torch.ones_like(x), verbose=False)
    return low, high - low, way.flatten()[0].item(), scheduler.timesteps


def by_euler(steps):
    x = START
    for step in range(steps):
        x = x + velocity(x, torch.tensor([1000.0 * (1 - step / steps)], dtype=torch.float64)) / steps
    low, high = x.flatten().tolist()
    return low, high - low


print(f"monai 1.6.1, data of mean {MEAN} and standard deviation {SPREAD}")
seen = {}
for steps in (30, 100, 300, 500, 700, 1000):
    mean, spread, way, times = by_the_package(steps, discrete=False)
    _, whole, whole_way, _ = by_the_package(steps, discrete=True)
    _, right = by_euler(steps)
    seen[steps] = spread, way, whole, whole_way, right
    print(
        f"{steps:4d} steps, times {times[0]:g}, {times[1]:g}, {times[2]:g} in {times.dtype}: way {way:.3f}, mean {mean:.3f}, standard "
        f"deviation {spread:.3f}; discrete times: way {whole_way:.3f}, {whole:.3f}; steps of 1/n: {right:.3f}"
    )

for steps, (spread, way, whole, whole_way, right) in seen.items():
    assert abs(whole_way - 1) < 1e-6 and abs(whole - right) < 1e-3, (steps, whole_way, whole, right)
    if 1000 % steps == 0:
        assert abs(way - 1) < 1e-6 and abs(spread - right) < 1e-6, (steps, way, spread, right)
assert 1.005 < seen[30][1] < 1.02 and 1.08 < seen[300][1] < 1.12 and seen[700][1] > 1.2, seen
assert seen[300][0] < 0.27 and seen[700][0] < 0.23 and seen[700][4] > 0.298, seen
print("stands: the steps add up to more than the way")
PYTHON
