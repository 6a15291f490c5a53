"""Files of learned solvers in the layouts that others publish, and their sampling loops, as their papers have them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import nvidia_pickle as nvidia
import torch
from nvidia_pickle import Call, Name, layer, parameter
from torch import Tensor

Net = Callable[[Tensor, Tensor], Tensor]
"""``net(x, sigma) -> x_0``."""


def random(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def dyweight_top(steps: int = 4, afs: bool = True, **loss: Any) -> dict[str, Any]:
    """The top of a DyWeight pickle: weights of a step sum to 1.02, and some that lie outside the mask do not count."""
    used = torch.tril(torch.ones(steps, steps)).triu(-2)
    weight = torch.eye(steps) + random(steps, steps, seed=0, scale=0.1)
    weight = weight + used / used.sum(1, keepdim=True) * (1.02 - (weight * used).sum(1, keepdim=True))
    scale = 1 + random(steps - afs, seed=1, scale=0.05)
    learned = {"hybrid_weights": parameter(weight), "t_scale": parameter(scale)}
    facts = {"afs": afs, "num_steps": steps + 1, "guidance_rate": 0.0}
    predictor = layer("DyWeight_predictor", _buffers={"mask": nvidia.tensor(used)}, _parameters=learned, **facts)
    said = {"schedule_type": "polynomial", "schedule_rho": 7.0, "sigma_min": 0.002, "sigma_max": 80.0}
    said |= {"solver_stu": Name("solvers", "dyweight_sampler"), "dataset_name": "toy"}
    return {"predictor": predictor, "loss_fn": layer("DyWeight_loss", **said | loss)}


def dyweight_loop(top: dict[str, Any], grid: Tensor, net: Net, x: Tensor) -> Tensor:
    state = nvidia.state(top["predictor"])
    weight, scale = (read(state["_parameters"][key]) for key in ("hybrid_weights", "t_scale"))
    weight = weight * read(state["_buffers"]["mask"])
    level, slopes = grid[0], []
    for n in range(len(weight)):
        if state["afs"] and n == 0:
            slopes.append(x / (1 + level**2).sqrt())
        else:
            slopes.append((x - net(x, scale[n - state["afs"]] * level)) / level)
        row = weight[n, : n + 1]
        x = x + (grid[n + 1] - level) * sum(w * d for w, d in zip(row, slopes, strict=True))
        level = level + row.sum() * (grid[n + 1] - level)
    return x


def epd_top(steps: int = 3, points: int = 2, **state: Any) -> dict[str, Any]:
    """The top of an EPD pickle."""
    names = ("r_params", "weight_s", "scale_dir_params", "scale_time_params")
    parameters = {name: parameter(random(steps, points, seed=seed)) for seed, name in enumerate(names)}
    said = {"schedule_type": "polynomial", "schedule_rho": 7.0, "sigma_min": 0.002, "sigma_max": 80.0, "afs": False,
            "scale_dir": 0.05, "scale_time": 0.1, "fcn": False, "backend": "ldm", "num_steps": steps + 1}  # fmt: skip
    sigmoid = Call(Name("torch.nn.modules.activation", "Sigmoid"), (), b"\x81", {"training": False, "_parameters": {}})
    return {"model": layer("EPD_predictor", _parameters=parameters, _modules={"sigmoid": sigmoid}, **said | state)}


def epd_loop(top: dict[str, Any], grid: Tensor, net: Net, x: Tensor) -> Tensor:
    state = nvidia.state(top["model"])
    r, weight, direction, time = (read(value) for value in state["_parameters"].values())
    near = lambda raw, most: 1 + most * (2 * torch.sigmoid(raw / 2) - 1)
    for n, (s, s_next) in enumerate(pairwise(grid)):
        d = x / (1 + s**2).sqrt() if state["afs"] and n == 0 else (x - net(x, s)) / s
        x_next = x
        for k in range(r.shape[1]):
            share = r[n, k].sigmoid()
            middle = s_next**share * s ** (1 - share)
            between = x + (middle - s) * d
            slope = (between - net(between, near(time[n, k], state["scale_time"]) * middle)) / middle
            length = 1 if state["fcn"] and n == len(r) - 1 else near(direction[n, k], state["scale_dir"])
            x_next = x_next + weight[n].softmax(0)[k] * length * (s_next - s) * slope
        x = x_next
    return x


def gs_file(path: Path, steps: int = 5, order: int = 4) -> list[Tensor]:
    """A file of GAS and its parameters: logits of times, shifts of times, then ``c`` and ``a`` of each order."""
    made = [0.5 + random(steps - 1, seed=1, scale=0.3), -4e-3 + random(steps, seed=2, scale=2e-3)]
    made += [random(steps, seed=3 + i, scale=0.02) for i in range(2 * order)]
    shadow = [torch.nn.Parameter(value) for value in made] + [torch.zeros(3, 3)]  # the last of a discriminator
    torch.save({"ema": {"decay": 0.999, "num_updates": 1, "shadow_params": shadow}, "step": 1}, path)
    return [value.double() for value in made]


def gs_loop(parameters: list[Tensor], process: Any, times: Tensor, net: Net, x: Tensor) -> Tensor:
    """On the process's own state, with the model as a noise prediction at a time of its own."""
    shift, c, a = parameters[1], parameters[2::2], parameters[3::2]
    alpha, sigma = process.alpha, process.sigma
    lam = [(alpha(t) / sigma(t)).log() for t in times]
    outputs: list[Tensor] = []
    states: list[Tensor] = []
    for n in range(len(shift)):
        t = times[n] + shift[n]
        eps = (x - alpha(t) * net(x / alpha(t), sigma(t) / alpha(t))) / sigma(t)
        outputs.append((x - sigma(times[n]) * eps) / alpha(times[n]))
        states.append(x)
        m, before = outputs[::-1][: len(c)], states[::-1][: len(a)]
        h, A = lam[n + 1] - lam[n], alpha(times[n + 1])
        phi = torch.expm1(-h)
        x = sigma(times[n + 1]) / sigma(times[n]) * x - (A * phi + c[0][n]) * m[0]
        if len(m) >= 2:
            first = (m[0] - m[1]) * h / (lam[n] - lam[n - 1])
        if len(m) == 2:
            x = x - (A * phi / 2 + c[1][n]) * first
        if len(m) >= 3:
            second = (m[1] - m[2]) * h / (lam[n - 1] - lam[n - 2])
            far = (lam[n] - lam[n - 2]) / h
            curve = (first - second) / far
            slope = first + (lam[n] - lam[n - 1]) / h * curve
            phi_2 = phi / h + 1
            x = x + (A * phi_2 + c[1][n]) * slope - (A * (phi_2 / h - 0.5) + c[2][n]) * curve
            x = x + sum(c[i][n] * m[i] for i in range(3, len(m)))
        x = x + sum(a[i][n] * before[i] for i in range(len(before)))
    return x


def read(call: Call) -> Tensor:
    """The tensor that a test wrote, float64."""
    while call.function is not nvidia.TENSOR:
        call = call.args[0]
    storage, offset, size, stride = call.args[:4]
    file = storage.args[0]
    count = torch.Size(size).numel()
    flat = torch.frombuffer(bytearray(file[len(file) - 4 * count :]), dtype=torch.float32)
    return flat.as_strided(size, stride, offset).double()
