#!/usr/bin/env bash
# diffusers 0.42.1, timestep_spacing="trailing": 62 of the step counts 1..1000 give one time too many, the time -1.
#
# Expected: set_timesteps(61) gives 61 times from 999 down to 15, and 61 steps are about as good as 60.
# Seen: 62 times, the last of them -1. A range of 61 fractional strides ends a rounding error above 0 instead of at 0,
# so the range has one more entry, which rounds to 0, minus 1. DDIM and DDPM take -1 as an index, which is the LAST entry
# of their noise table: they treat the finished sample as pure noise and multiply what is left of it by 157.
# The first such counts are 61, 103, 121, 122, 201: also with 500, 2000 or 4000 training steps.
#
# The problem is exact: Gaussian data, whose best noise prediction is known in closed form, so any error is the sampler's.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 diffusers==0.42.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PYTHON'
import torch
from diffusers import DDIMScheduler

MEAN, STD = 0.4, 0.25
scheduler = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)


def best_noise(x, time):
    """The noise that a perfect network predicts; time -1 is read as 0, the nearest time that was trained."""
    alpha2 = scheduler.alphas_cumprod[max(int(time), 0)]
    sigma2 = 1 - alpha2
    return sigma2.sqrt() * (x - alpha2.sqrt() * MEAN) / (sigma2 + alpha2 * STD**2)


def samples(steps):
    scheduler.set_timesteps(steps)
    x = torch.randn(4096, 1, generator=torch.Generator().manual_seed(0))
    for time in scheduler.timesteps:
        x = scheduler.step(best_noise(x, time), time, x).prev_sample
    return x


print(f"diffusers 0.42.1, DDIM, trailing; the data have mean {MEAN} and standard deviation {STD}")
found = {}
for steps in (60, 61, 62, 102, 103):
    x = samples(steps)
    found[steps] = x.mean().item()
    times = scheduler.timesteps
    print(f"{steps:4d} steps asked: {len(times)} times, last {times[-1]:3d}; samples {x.mean():7.3f} +- {x.std():.3f}")

extra = []
for steps in range(1, 1001):
    scheduler.set_timesteps(steps)
    extra += [steps] if len(scheduler.timesteps) == steps + 1 and scheduler.timesteps[-1] == -1 else []
print(f"{len(extra)} of 1000 step counts end at time -1: {extra[:10]} ...")

assert len(extra) == 62 and extra[:5] == [61, 103, 121, 122, 201], extra
assert all(abs(found[steps] - MEAN) < 0.05 for steps in (60, 62, 102)), found
assert all(found[steps] > 10 for steps in (61, 103)), found
print("stands: one step more than 60 ruins every sample")
PYTHON
