#!/usr/bin/env bash
# diffusers 0.42.1, FlowMatchHeunDiscreteScheduler.step(s_churn=...): the noise it adds leaves the flow's path; the samples get a
# wrong mean and spread, however many steps are made.
#
# Expected: s_churn, said to set how much noise is added while sampling, makes paths random and keeps the distribution, as in
# the EDM sampler (arXiv 2206.00364) that it comes from: x is noised to a higher level and the step starts at that level.
# Seen: data of mean 0.4 come out with mean 0.435 for s_churn=1, 0.51 for 5 and 0.62 for 40, at 50 steps as at 800. In EDM
# data + s noise plus noise is data + s' noise. Here x is (1 - s) data + s noise, and noise alone leads to
# (1 - s) data + s' noise, which is no state of any level; the step back along (noise - data) then adds data that was never
# taken away. Noising to (1 - s') data + s' noise, by the same amounts, keeps mean and spread. The Euler scheduler of
# the same family takes s_churn and does nothing with it.
#
# The problem is exact: Gaussian data, whose best velocity is known in closed form at every level.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 diffusers==0.42.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PYTHON'
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler

MEAN, STD, PATHS = 0.4, 0.25, 50000


def velocity(x, s):
    """The best prediction of noise - data at level s, x = (1 - s) data + s noise."""
    surplus = (x - (1 - s) * MEAN) / (s**2 + ((1 - s) * STD) ** 2)
    return s * surplus - MEAN - (1 - s) * STD**2 * surplus


def start():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(PATHS, 1, dtype=torch.float64, generator=generator), generator


def library(kind, steps, **churn):
    scheduler = kind()
    scheduler.set_timesteps(steps)
    x, generator = start()
    for time in scheduler.timesteps:
        level = time.item() / scheduler.config.num_train_timesteps
        x = scheduler.step(velocity(x, level), time, x, generator=generator, **churn).prev_sample
    return x


def on_the_path(steps, s_churn):
    """Heun's method with the same levels and gamma, each state noised to one of the level s' = (1 + gamma) s."""
    scheduler = FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(steps)
    levels = scheduler.sigmas.double().unique().flip(0).tolist()
    assert len(levels) == steps + 1 and levels[-1] == 0
    gamma = min(s_churn / (len(scheduler.sigmas) - 1), 2**0.5 - 1)
    x, generator = start()
    for s, end in zip(levels, levels[1:]):
        if s < 1:
            up = min(s * (1 + gamma), 1.0)
            keep = (1 - up) / (1 - s)
            noise = torch.randn(x.shape, dtype=x.dtype, generator=generator)
            x, s = keep * x + (up**2 - (keep * s) ** 2) ** 0.5 * noise, up
        first = velocity(x, s)
        ahead = x + (end - s) * first
        x = ahead if end == 0 else x + (end - s) * (first + velocity(ahead, end)) / 2
    return x


def show(x):
    return x.mean().item(), x.std().item()


print(f"diffusers 0.42.1: mean and standard deviation of the samples; those of the data are {MEAN} and {STD}")
seen, right = {}, {}
for s_churn in (0, 1, 5, 40):
    for steps in (50, 200, 800):
        key = s_churn, steps
        seen[key] = show(library(FlowMatchHeunDiscreteScheduler, steps, s_churn=s_churn))
        right[key] = show(on_the_path(steps, s_churn))
        print(
            f"s_churn {s_churn:2d}, {steps:3d} steps: {seen[key][0]:.3f} and {seen[key][1]:.3f}; "
            f"noised along the path {right[key][0]:.3f} and {right[key][1]:.3f}"
        )
euler = [library(FlowMatchEulerDiscreteScheduler, 50, s_churn=s_churn) for s_churn in (0, 40)]
print(f"the Euler scheduler, s_churn 0 and 40: same samples to the last bit: {torch.equal(*euler)}")

assert all(abs(seen[0, steps][0] - MEAN) < 0.01 and abs(seen[0, steps][1] - STD) < 0.01 for steps in (50, 200, 800)), seen
assert all(abs(mean - MEAN) < 0.01 and abs(std - STD) < 0.03 for mean, std in right.values()), right
assert all(abs(right[s_churn, 800][1] - STD) < 0.01 for s_churn in (0, 1, 5, 40)), right
for s_churn, mean in ((1, 0.42), (5, 0.49), (40, 0.55)):
    assert all(seen[s_churn, steps][0] > mean for steps in (50, 200, 800)), seen
assert torch.equal(*euler)
print("stands: churn shifts the mean")
PYTHON
