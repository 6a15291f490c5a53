#!/usr/bin/env bash
# monai 1.6.1, PNDMScheduler: as constructed it returns the noise it is given; with fewer steps its samples are noise in part.
#
# Expected: DiffusionInferer.sample with PNDMScheduler(), whose times are set for all 1000 training steps, or after
# set_timesteps(50), ends at samples of the data, as DDPMScheduler() does: each step goes from one listed time to the next.
# Seen: after 1009 network calls the noise comes back, all but unchanged: a start at 1 ends at 1.0001. set_timesteps lists n times
# and, for the Runge-Kutta start, 9 more; then it sets the number of steps to the length of the list, and the length of a step
# is 1000 divided by that and rounded down: 0 in place of 1 here, 16 in place of 20 for 50 steps. The network is asked at the
# listed times all the same, for samples that have got less and less far. The data have a standard deviation of 0.3; the
# samples have 0.5, 0.38, 0.34, 0.38, 0.55 and 1.0 at 10, 50, 100, 200, 500 and 1000 steps. With the number of steps put back
# after set_timesteps they have 0.30.
#
# The problem is exact: Gaussian data, whose best noise prediction is known in closed form. The map from noise to sample is a
# straight line, so two starts give mean and spread of the samples.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 monai==1.6.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PYTHON'
import torch
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import PNDMScheduler

MEAN, SPREAD = 0.4, 0.3


class Network:
    """The best noise prediction for Gaussian data; counts its calls."""

    def __init__(self, alphas_cumprod):
        self.squares, self.calls = alphas_cumprod.double(), 0

    def __call__(self, x, timesteps, context=None):
        self.calls += 1
        square = self.squares[timesteps.long()]
        alpha, sigma = square.sqrt(), (1 - square).sqrt()
        return sigma * (x - alpha * MEAN) / ((alpha * SPREAD) ** 2 + sigma**2)


def sample(scheduler):
    """Where the starts 0 and 1 end, and the number of calls."""
    network = Network(scheduler.alphas_cumprod)
    start = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1, 1)
    return DiffusionInferer(scheduler).sample(start, network, verbose=False).flatten(), network.calls


print(f"monai 1.6.1, data of mean {MEAN} and standard deviation {SPREAD}")
(low, high), calls = sample(PNDMScheduler())
print(f"as constructed: {calls} calls; 0 becomes {low:.4f}, 1 becomes {high:.4f}")
assert calls == 1009 and abs(low) < 1e-3 and abs(high - 1) < 1e-3, (calls, low, high)
off, mended = {}, {}
for steps in (10, 50, 100, 200, 500, 1000):
    scheduler = PNDMScheduler()
    scheduler.set_timesteps(steps)
    (low, high), calls = sample(scheduler)
    length = 1000 // scheduler.num_inference_steps
    scheduler.set_timesteps(steps)
    scheduler.num_inference_steps = steps
    (true_low, true_high), _ = sample(scheduler)
    print(
        f"{steps:4d} steps, {calls:4d} calls: steps of {length}, mean {low:.3f}, standard deviation {high - low:.3f}; "
        f"with steps of {1000 // steps}: {true_low:.3f}, {true_high - true_low:.3f}"
    )
    off[steps] = high - low - SPREAD
    mended[steps] = max(abs(true_low - MEAN), abs(true_high - true_low - SPREAD))

assert off[10] > 0.15 and off[50] > 0.07 and off[100] > 0.03 and off[200] > 0.07 and off[500] > 0.2, off
assert all(mended[steps] < 0.02 for steps in mended if steps > 10), mended
print("stands: the steps are shorter than the distances between the times")
PYTHON
