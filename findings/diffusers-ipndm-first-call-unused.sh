#!/usr/bin/env bash
# diffusers 0.42.1, IPNDMScheduler, "a fourth-order" multistep method: the first network call has no effect, and the order is 1.
#
# Expected: twice the steps leave a sixteenth of the error, or a quarter if the start, made with lower orders, dominates; and
# what the network says in each of its n calls counts.
# Seen: half of the error is left. The run begins at pure noise, alpha = 0, where a velocity network names the data itself:
# x0 = -v. The scheduler turns v into noise first, sigma x + alpha v, where alpha = 0 wipes it out, and recovers x0 by a
# division by alpha, which is guarded by 1e-8: 0 / 1e-8. So the first step goes to x0 = 0 in place of the network's x0: any
# finite first output gives the same samples to the last bit, a run of one step returns zeros, and one of n steps keeps an
# error in proportion to 1/n. With that one step made as the formula means it, all else untouched, the order is 2.
#
# The problem is exact: Gaussian data, whose best velocity is known in closed form, as is the end of each path.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 diffusers==0.42.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PYTHON'
from math import log2

import torch
from diffusers import IPNDMScheduler

MEAN, STD = 0.4, 0.25
START = torch.tensor([-1.0, 0.3, 1.5], dtype=torch.float64)
EXACT = MEAN + STD * START


def run(steps, first_output=None, own_first_step=False):
    """Ends of three paths; the network's first output may be replaced, or the first step made here."""
    scheduler = IPNDMScheduler()
    scheduler.set_timesteps(steps)
    alpha, sigma = scheduler.alphas.double(), scheduler.betas.double()  # its names for the factors of data and noise
    assert alpha[0] == 0 and sigma[0] == 1
    x = START
    for n, time in enumerate(scheduler.timesteps):
        best = (MEAN * sigma[n] ** 2 + STD**2 * alpha[n] * x) / (sigma[n] ** 2 + STD**2 * alpha[n] ** 2)
        velocity = (alpha[n] * x - best) / sigma[n]  # alpha * noise - sigma * data, with noise = (x - alpha * data) / sigma
        if n == 0 and first_output is not None:
            velocity = torch.full_like(x, first_output)
        before, x = x, scheduler.step(velocity, time, x).prev_sample
        if n == 0 and own_first_step:
            x = alpha[1] * -velocity + sigma[1] * before
    return x


def error(*args, **options):
    return (run(*args, **options) - EXACT).abs().max().item()


print("diffusers 0.42.1, IPNDM: largest error on an exact problem")
seen, repaired = {}, {}
for steps in (50, 100, 200, 400, 800):
    seen[steps], repaired[steps] = error(steps), error(steps, own_first_step=True)
    print(f"{steps:4d} steps: {seen[steps]:.1e}; with the first step made as meant {repaired[steps]:.1e}")
order, repaired_order = log2(seen[400] / seen[800]), log2(repaired[100] / repaired[200])
print(f"order {order:.2f}; with the first step made as meant {repaired_order:.2f}")
same = {steps: torch.equal(run(steps), run(steps, first_output=1000.0)) for steps in (2, 50, 800)}
print(f"a first output of 1000 in place of the network's, same samples to the last bit: {same}")
print(f"one step: {run(1).tolist()}, where the data have mean {MEAN}")

assert 0.9 < order < 1.1, seen
assert repaired_order > 1.8 and repaired[200] < seen[200] / 10, repaired
assert all(same.values()), same
assert run(1).count_nonzero() == 0, run(1)
print("stands: the first call is not used, and the order is 1")
PYTHON
