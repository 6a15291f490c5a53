#!/usr/bin/env bash
# azula 0.11.1, REABSampler (Rosenbrock-type exponential Adams-Bashforth): order 1 whatever `order` is.
#
# Expected: order=2 and order=3 leave a quarter and an eighth of the error for twice the steps, as xEABSampler does.
# Seen: half of it, at any order, on every schedule tried (VP, cosine, rectified, VE, decay). The documented step scales its
# integral with the root of alpha^2 + sigma^2 at the time it goes TO; the one that runs takes alpha from there, but sigma
# from the time it comes from. The factor is right only for steps of length 0, so each step errs by O(h^2).
#
# The problem is exact: Gaussian data, whose best prediction is known in closed form, as is the end of each path.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 azula==0.11.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PYTHON'
from math import log2, sqrt

import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.noise import CosineSchedule, VESchedule
from azula.sample import REABSampler, xEABSampler

torch.set_default_dtype(torch.float64)
MEAN, STD = 0.4, 0.25
START, STOP = 0.95, 0.05


class Best(Denoiser):
    """The posterior mean of Gaussian data."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule

    def forward(self, x, time, **_):
        alpha, sigma = self.schedule(time)
        return DiracPosterior(mean=MEAN + (x / alpha - MEAN) * STD**2 / (STD**2 + (sigma / alpha) ** 2))


def run(kind, schedule, order, steps, start=START, stop=STOP):
    """Ends of four paths by the sampler, and the exact ends."""
    unit = torch.tensor([-1.2, 0.1, 0.9, 2.0])
    (a, s), (b, r) = schedule(torch.tensor(start)), schedule(torch.tensor(stop))
    sampler = kind(Best(schedule), order=order, steps=steps, start=start, stop=stop, silent=True)
    seen = sampler(unit * (s**2 + a**2 * STD**2).sqrt() + a * MEAN)
    return seen, unit * (r**2 + b**2 * STD**2).sqrt() + b * MEAN


orders = {}
print("azula 0.11.1: largest error with 64, 128, 256 steps, and the order of the last two")
for schedule in (CosineSchedule(), VESchedule()):
    for kind in (xEABSampler, REABSampler):
        for order in (2, 3):
            errors = []
            for steps in (64, 128, 256):
                seen, exact = run(kind, schedule, order, steps)
                errors.append((seen - exact).abs().max().item())
            key = type(schedule).__name__, kind.__name__, order
            orders[key] = log2(errors[1] / errors[2])
            print(*key, ", ".join(f"{e:.1e}" for e in errors), f"order {orders[key]:.2f}")

# One step of a VE model, alpha = 1, whose network always returns 0, by the documented formula and by the sampler.
schedule, start, stop = VESchedule(), 0.6, 0.5
s, r = schedule(torch.tensor(start))[1].item(), schedule(torch.tensor(stop))[1].item()
zero = Best(schedule)
zero.forward = lambda x, time, **_: DiracPosterior(mean=torch.zeros_like(x))
seen = REABSampler(zero, order=1, steps=1, start=start, stop=stop, silent=True)(torch.ones(1)).item()
u = torch.linspace(s, r, 100001).log()
integral = torch.trapezoid(u.exp() / (1 + (2 * u).exp()), u).item() / (s * sqrt(1 + s**2))
linear = sqrt((1 + r**2) / (1 + s**2))
by_the_book, as_run = linear + sqrt(1 + r**2) * integral, linear + sqrt(1 + s**2) * integral
print(f"one step, sigma {s:.4f} to {r:.4f}: sampler {seen:.6f}, documented {by_the_book:.6f}, with the old sigma {as_run:.6f}")

assert all(0.9 < value < 1.15 for (_, kind, _), value in orders.items() if kind == "REABSampler"), orders
assert all(value > 1.8 for (_, kind, _), value in orders.items() if kind == "xEABSampler"), orders
assert abs(seen - as_run) < 1e-4 * abs(seen - by_the_book), (seen, as_run, by_the_book)
print("stands: REABSampler is of order 1")
PYTHON
