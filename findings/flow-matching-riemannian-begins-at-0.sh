#!/usr/bin/env bash
# flow-matching 1.0.10, RiemannianODESolver: with a step size of 0.1, a run over [0.5, 1] begins at 0 and ends with a step of 0.6.
#
# Expected: sample(step_size=0.1, time_grid=[0.5, 1]) makes five steps of 0.1 from 0.5 to 1, as the library's ODESolver does with
# the same arguments; asked for intermediate states, it gives the initial state at 0.5.
# Seen: it steps from 0 to 0.4 and then to 1 in one step: the times are multiples of the step size, without the start of the
# interval added. The sample moves by 1 in place of 0.75, the network is asked at times outside the interval, and the state
# given for 0.5 is not the initial one. Nothing is said. Runs from 0 are right, and so is a list of all times with
# step_size=None.
#
# The problem: on the circle, an angle that moves with velocity 2t, so by 1 - 0.25 = 0.75 in all. Midpoint is exact for it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 flow-matching==1.0.10 torchdiffeq==0.2.5 \
    numpy==2.4.6 tqdm==4.70.1 # flow-matching imports tqdm and does not ask for it
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PYTHON'
import torch
from flow_matching.solver import ODESolver, RiemannianODESolver
from flow_matching.utils import ModelWrapper
from flow_matching.utils.manifolds import FlatTorus

START = torch.full((1, 1), 0.2)


class Velocity(ModelWrapper):
    def __init__(self):
        super().__init__(torch.nn.Identity())
        self.times = []

    def forward(self, x, t, **_):
        self.times.append(t.item())
        return 2 * t * torch.ones_like(x)


def run(solver, times, step, **settings):
    """How far the angle moves (all states asked for), and the times at which the network is called."""
    velocity = Velocity()
    if solver is RiemannianODESolver:
        made = RiemannianODESolver(FlatTorus(), velocity)
    else:
        made = ODESolver(velocity)
    end = made.sample(x_init=START, step_size=step, method="midpoint", time_grid=torch.tensor(times), **settings)
    return (end - START).flatten().tolist(), velocity.times[::2]


print("flow-matching 1.0.10, midpoint: how far the angle moves, and the times at which the steps begin")
seen = {}
for name, solver, times, step in (
    ("ODESolver", ODESolver, [0.5, 1.0], 0.1),
    ("RiemannianODESolver", RiemannianODESolver, [0.5, 1.0], 0.1),
    ("the same, all times", RiemannianODESolver, [0.5, 0.6, 0.7, 0.8, 0.9, 1.0], None),
    ("the same, from 0", RiemannianODESolver, [0.0, 1.0], 0.1),
    ("RiemannianODESolver", RiemannianODESolver, [0.9, 1.0], 0.01),
):
    (moved,), begins = run(solver, times, step)
    exact = times[-1] ** 2 - times[0] ** 2
    seen[name, times[0]] = moved, exact, begins
    print(f"{name:20s} {times[0]} to 1: moved {moved:.4f}, exact {exact:.4f}; {', '.join(f'{t:.2f}' for t in begins)}")

states, _ = run(RiemannianODESolver, [0.5, 0.75, 1.0], 0.1, return_intermediates=True)
print(f"states at 0.5, 0.75, 1: moved {', '.join(f'{x:.4f}' for x in states)}; exact 0.0000, 0.3125, 0.7500")

for (name, _), (moved, exact, begins) in seen.items():
    if name == "RiemannianODESolver":
        assert begins[0] == 0 and moved > exact + 0.2, (name, moved, exact, begins)
    else:
        assert abs(moved - exact) < 1e-5, (name, moved, exact)
assert abs(seen["RiemannianODESolver", 0.5][0] - 1) < 1e-5, seen
assert max(seen["RiemannianODESolver", 0.5][2]) < 0.41, seen
assert abs(states[0]) > 0.2, states
print("stands: the run begins at 0, wherever it is asked to begin")
PYTHON
