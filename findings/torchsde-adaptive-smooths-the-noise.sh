#!/usr/bin/env bash
# torchsde 0.2.6, adaptive=True: states at the times asked for lie on straight lines between the steps; the noise between them is
# missing, whatever the tolerance.
#
# Expected: sdeint(..., ts, adaptive=True) gives, at every time of ts, a state of the solution's distribution, to about the
# tolerance. The spread at a time does not depend on which later times are asked for as well.
# Seen: the run steps past the times asked for and draws a straight line to the end of the step, though the Brownian motion
# is known in between. A path asked for at 201 times has a tenth (tolerance 1e-2) or a quarter (1e-3) of the quadratic
# variation of the process: changes from one time to the next are two to three times too small. Inside the long steps the
# spread is 8 to 10 % too small, about ten tolerances; asked for as the last time, the same state has the right one. A
# fixed step, the spacing of the times, is right, at as many calls as 1e-3 takes.
#
# The problem is exact: the VP process from a fixed point, whose mean and standard deviation are known at each time.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 torchsde==0.2.6 numpy==2.4.6 scipy==1.17.1
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PYTHON'
import torch
from torchsde import BrownianInterval, sdeint

torch.set_default_dtype(torch.float64)
PATHS = 20000


class VP(torch.nn.Module):
    noise_type, sde_type = "diagonal", "ito"

    def __init__(self):
        super().__init__()
        self.calls = 0

    def rate(self, t):
        return 0.1 + 19.9 * t

    def f(self, t, y):
        self.calls += 1
        return -self.rate(t) / 2 * y

    def g(self, t, y):
        return self.rate(t).sqrt().expand_as(y)


def run(times, **settings):
    """All paths at these times, their spread over the exact one, and the number of calls."""
    process = VP()
    times = torch.as_tensor(times)
    noise = BrownianInterval(0.0, 1.0, size=(PATHS, 1), entropy=7, dtype=times.dtype, levy_area_approximation="space-time")
    states = sdeint(process, torch.full((PATHS, 1), 2.0), times, bm=noise, method="srk", **settings)[..., 0]
    exact = (1 - (-0.1 * times - 9.95 * times**2).exp()).sqrt()
    return states, (states.std(1) / exact)[1:], process.calls


times = torch.linspace(0, 1, 201)
print("torchsde 0.2.6, SRK: standard deviation over the exact one, and quadratic variation over the exact one (10.05)")
seen = {}
for name, settings in {
    "fixed step 0.005": {"dt": 0.005},
    "adaptive, tolerance 1e-2": {"adaptive": True, "rtol": 1e-2, "atol": 1e-2},
    "adaptive, tolerance 1e-3": {"adaptive": True, "rtol": 1e-3, "atol": 1e-3},
}.items():
    states, spread, calls = run(times, **settings)
    variation = (states.diff(dim=0) ** 2).sum(0).mean().item() / 10.05
    worst = spread.argmin().item()
    _, alone, _ = run([0.0, times[worst + 1].item()], **settings)
    seen[name] = spread.min().item(), variation, alone[-1].item()
    print(
        f"{name:25s}{calls:5d} calls; at 200 times {spread.min():.3f} to {spread.max():.3f}, the least at t = "
        f"{times[worst + 1]:.3f}, where it is {alone[-1]:.3f} if that is the last time; variation {variation:.3f}"
    )

fixed, *adaptive = seen.values()
assert fixed[0] > 0.98 and 0.97 < fixed[1] < 1.03, seen
for least, variation, alone in adaptive:
    assert least < 0.95 and variation < 0.4, seen
    assert 0.98 < alone < 1.02, seen
print("stands: between two steps a path is a straight line, and its noise is lost")
PYTHON
