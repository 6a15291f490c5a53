#!/usr/bin/env bash
# ema-pytorch 0.8.3, KarrasEMA and PostHocEMA: the width of the average depends on update_every, "to save on compute"; with its
# default, 100, the average is the weights that training began with.
#
# Expected: sigma_rel is the width of the average as a share of the run (the standard deviation of t under the weights, over
# the time so far), as in the paper that the package cites (arXiv 2312.02696), and averaging every 10th or 100th step instead
# of each one changes it little: the weights move slowly. PostHocEMA then makes an average of any width from two others.
# Seen: right with update_every=1. Otherwise the decay of ONE step at time t, (1 - 1/t)^(1 + gamma), is applied once in 10 or
# 100 steps: the exponent is in effect divided by that number. With the documented 10, sigma_rel=0.05 is 0.25 wide, and at
# 0.28 the weights of the first step make up 43 % of the average after 10000 steps; with the default 100 they make up 94 %.
# The average made afterwards (0.15 from 0.05 and 0.28) assumes the exact widths and holds 31 % or 83 % of them. The decay
# of all steps since the last update, at the same cost, gives the width asked for.
#
# The "network" has three numbers that are known functions of the step, so its average shows the weights of the average.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 ema-pytorch==0.8.3 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PYTHON'
import torch
from ema_pytorch import KarrasEMA, PostHocEMA

STEPS = 10000


class Network(torch.nn.Module):
    """Its numbers at a step: the step and its square (1 at the end), and whether it is the first step."""

    def __init__(self):
        super().__init__()
        self.numbers = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.train_to(1)

    def train_to(self, step):
        t = step / STEPS
        with torch.no_grad():
            self.numbers.copy_(torch.tensor([t, t * t, step == 1]))


def train(make):
    network = Network()
    average = make(network)
    for step in range(1, STEPS + 1):
        network.train_to(step)
        average.update()
    return average


def look(numbers):
    """Width of the average as a share of the run, and the weight of the first step."""
    mean, square, first = numbers.tolist()
    return max(square - mean**2, 0) ** 0.5, first


def by_the_paper(gamma, every):
    """The same updates, each with the decay of all the steps since the last one."""
    network, average = Network(), torch.zeros(3, dtype=torch.float64)
    for step in range(every, STEPS + 1, every):
        network.train_to(step)
        average = torch.lerp(network.numbers.detach(), average, (1 - every / step) ** (1 + gamma))
    return average


default = KarrasEMA(Network(), sigma_rel=0.1).update_every
print(f"ema-pytorch 0.8.3, {STEPS} steps; the default of update_every is {default}")
seen, paper, after = {}, {}, {}
for every in (1, 10, 100):
    for asked in (0.05, 0.28):
        average = train(lambda network: KarrasEMA(network, sigma_rel=asked, update_every=every))
        seen[asked, every] = look(average.ema_model.numbers)
        paper[asked, every] = look(by_the_paper(average.gamma, every))[0]
        print(
            f"update_every {every:3d}, sigma_rel {asked}: width {seen[asked, every][0]:.3f}, first step "
            f"{seen[asked, every][1]:.1%} of the average; with the decay of all steps since, width {paper[asked, every]:.3f}"
        )
    options = {"sigma_rels": (0.05, 0.28), "update_every": every, "checkpoint_folder": f"checkpoints-{every}"}
    made = train(lambda network: PostHocEMA(network, **options)).synthesize_ema_model(sigma_rel=0.15)
    after[every] = look(made.ema_model.numbers)
    print(f"update_every {every:3d}, 0.15 made afterwards: width {after[every][0]:.3f}, first step {after[every][1]:.1%}")

assert default == 100, default
assert all(abs(seen[asked, 1][0] - asked) < 0.005 and seen[asked, 1][1] < 0.001 for asked in (0.05, 0.28)), seen
assert abs(after[1][0] - 0.15) < 0.005 and after[1][1] < 0.01, after
assert seen[0.05, 10][0] > 0.2 and seen[0.28, 10][1] > 0.4 and seen[0.28, 100][1] > 0.9, seen
assert after[10][1] > 0.25 and after[100][1] > 0.75, after
assert all(abs(width - asked) < 0.005 for (asked, _), width in paper.items()), paper
print("stands: the width asked for is only had with update_every=1")
PYTHON
