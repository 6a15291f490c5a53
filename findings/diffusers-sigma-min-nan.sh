#!/usr/bin/env bash
# diffusers 0.42.1, DPMSolverMultistepScheduler: third order with Karras levels that end at sigma_min is all NaN from 15 steps on.
#
# Expected: final_sigmas_type="sigma_min" ends the run at the smallest level of the training, with any spacing of levels.
# Seen: with use_karras_sigmas (and the exponential, beta and lu spacings) the list of levels already ends there, and the
# smallest level is put behind it once more. The last step then has length 0: its network call is for nothing at second
# order, and at third order the step divides 0 by 0. Below 15 steps the last step is lowered to first order, so a trial
# with few steps looks right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 diffusers==0.42.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PYTHON'
import torch
from diffusers import DPMSolverMultistepScheduler


def run(order, steps, **spacing):
    """Samples of Gaussian data (mean 0, standard deviation 0.25) by their best noise prediction, and the levels."""
    scheduler = DPMSolverMultistepScheduler(solver_order=order, final_sigmas_type="sigma_min", **spacing)
    scheduler.set_timesteps(steps)
    x = torch.randn(1000, 1, generator=torch.Generator().manual_seed(0))
    for n, time in enumerate(scheduler.timesteps):
        before = x
        sigma = scheduler.sigmas[n]
        best = x * (1 + sigma**2).sqrt() * sigma / (0.25**2 + sigma**2)
        x = scheduler.step(best, time, x).prev_sample
    return x, before, scheduler.sigmas


karras = {"use_karras_sigmas": True}
print("diffusers 0.42.1, dpmsolver++, final_sigmas_type='sigma_min'")
for order, steps, spacing in ((3, 14, karras), (3, 15, karras), (3, 50, karras), (2, 50, karras), (3, 50, {})):
    x, before, sigma = run(order, steps, **spacing)
    print(
        f"order {order}, {steps} steps, {'karras' if spacing else 'linspace'}: last levels {sigma[-3]:.4f} {sigma[-2]:.4f} "
        f"{sigma[-1]:.4f}, {int(x.isnan().sum())} of 1000 samples NaN, last step moved them by {(x - before).abs().max():.1e}"
    )

assert run(3, 14, **karras)[0].isfinite().all()
assert all(run(3, n, **karras)[0].isnan().all() for n in (15, 20, 50))
assert run(3, 50)[0].isfinite().all()
x, before, sigma = run(2, 50, **karras)
assert sigma[-1] == sigma[-2] and (x - before).abs().max() < 1e-6
print("stands: the last step has length 0; third order turns it into NaN")
PYTHON
