#!/usr/bin/env bash
# monai 1.6.1, DDIMScheduler and DDPMScheduler: a step does not end at the next time of the list; 501 DDIM steps are far worse than
# 50, and 100 DDPM steps leave most of the noise.
#
# Expected: after set_timesteps(n) each step goes from one of the n listed times to the next one, and more steps are better.
# Seen: the list is spread evenly from 999 to 0, by 999/(n - 1), while a DDIM step goes 1000/n, rounded down, and a DDPM step goes
# 1 whatever n is. With 10 DDIM steps the sample gets to time 899, and the network is asked as if it were at 888. With 501
# the list goes down by 2 and the step by 1: half of the way is never gone, and data of standard deviation 0.3 come out with
# 0.55 (0.33 with 101, 0.48 with 600, 0.34 with 900). Only numbers that nearly divide 1000 come out nearly right. DDPM samples
# have 0.80 with 100 steps and 0.42 with 500; only 1000 are right. Steps from one listed time to the next are right with both.
#
# The problem is exact: Gaussian data, whose best noise prediction is known in closed form. The map from noise to sample is a
# straight line for DDIM, so two starts give mean and spread; for DDPM they are those of 90000 pixels.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 monai==1.6.1 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PYTHON'
import torch
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

MEAN, SPREAD = 0.4, 0.3


class Network:
    """The best noise prediction for Gaussian data, with the times that it was asked at."""

    def __init__(self, alphas_cumprod):
        self.squares, self.asked = alphas_cumprod.double(), []

    def __call__(self, x, timesteps, context=None):
        self.asked.append(int(timesteps))
        square = self.squares[timesteps.long()]
        alpha, sigma = square.sqrt(), (1 - square).sqrt()
        return sigma * (x - alpha * MEAN) / ((alpha * SPREAD) ** 2 + sigma**2)


def sample(kind, steps):
    """Mean and spread of the samples, and the times of the calls."""
    scheduler = kind(clip_sample=False)
    scheduler.set_timesteps(steps)
    network = Network(scheduler.alphas_cumprod)
    if kind is DDIMScheduler:
        start = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1, 1)
        low, high = DiffusionInferer(scheduler).sample(start, network, verbose=False).flatten().tolist()
        return low, high - low, network.asked
    torch.manual_seed(0)
    out = DiffusionInferer(scheduler).sample(torch.randn(1, 1, 300, 300, dtype=torch.float64), network, verbose=False)
    return out.mean().item(), out.std().item(), network.asked


def by_the_list(times, eta):
    """Mean and spread after steps from each time to the next, and from the last to the data; eta 0 is DDIM, 1 is DDPM."""
    squares = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0).tolist()
    mean, variance = 0.0, 1.0
    for now, then in zip([squares[t] for t in times], [squares[t] for t in times[1:]] + [1.0], strict=True):
        drawn = eta**2 * (1 - then) / (1 - now) * (1 - now / then)
        gain = now**0.5 * SPREAD**2 / (now * SPREAD**2 + 1 - now)  # the best guess of the data is a straight line in x
        keep = ((1 - then - drawn) / (1 - now)) ** 0.5
        slope = then**0.5 * gain + keep * (1 - now**0.5 * gain)
        mean = slope * mean + (then**0.5 - keep * now**0.5) * (1 - now**0.5 * gain) * MEAN
        variance = slope**2 * variance + drawn
    return mean, variance**0.5


print(f"monai 1.6.1, data of mean {MEAN} and standard deviation {SPREAD}")
seen, right = {}, {}
for kind, eta, counts in ((DDIMScheduler, 0, (10, 50, 100, 101, 500, 501, 600, 900, 1000)), (DDPMScheduler, 1, (100, 500, 1000))):
    for steps in counts:
        mean, spread, times = sample(kind, steps)
        true_mean, true_spread = by_the_list(times, eta)
        seen[kind.__name__, steps], right[kind.__name__, steps] = spread, true_spread
        print(
            f"{kind.__name__}, {steps:4d} steps, times {times[0]}, {times[1]}, ...: mean {mean:.3f}, standard deviation "
            f"{spread:.3f}; by steps along the list {true_mean:.3f}, {true_spread:.3f}"
        )
        assert len(times) == steps and times[0] == 999 and times[-1] == 0, times

assert all(0.27 < right[key] < 0.303 for key in right if key[1] >= 50), right
assert seen["DDIMScheduler", 501] > 0.5 and seen["DDIMScheduler", 600] > 0.45 and seen["DDIMScheduler", 101] > 0.32, seen
assert abs(seen["DDIMScheduler", 500] - SPREAD) < 0.005 and abs(seen["DDIMScheduler", 10] - right["DDIMScheduler", 10]) > 0.04
assert seen["DDPMScheduler", 100] > 0.75 and seen["DDPMScheduler", 500] > 0.4, seen
assert all(abs(seen[name, 1000] - right[name, 1000]) < 0.005 for name in ("DDIMScheduler", "DDPMScheduler")), (seen, right)
print("stands: the steps and the times do not fit")
PYTHON
