"""Our tables against numbers made by the official solver implementations (``tests/golden/README.md``).

Every case is either compared or excused with a reason. ``S4S_GOLDEN=DIR`` walks the full files in ``DIR`` instead of
the subset kept here.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import Mixture
from torch import Tensor

import s4s
from s4s import classical, textbook
from s4s.process import Process

FOLDER = Path(os.environ.get("S4S_GOLDEN") or Path(__file__).parents[1] / "golden")
SOURCES = ("edm", "vp_linear", "vp_discrete", "ld3", "gas")

EXCUSED = {
    r".*_thresh/.*": "dynamic thresholding looks at the sample, so it is not a table; the official code has it off",
    r"edm:diffsampler/ipndmv[34]/.*": "a misplaced bracket: not variable-step Adams-Bashforth, which is our deis",
    r"vp_\w+:unipc/vary_coeff_.*": "its corrector uses a left-over loop index",
    r"edm:edm/ablation_vp_vp_vp_.*": "steps in the time of the scaled VP state: no solver of ours",
    r"edm:edm/ablation_ve_ve_none_.*": "steps in sigma^2: no solver of ours",
    r"gas:gas/\w+/notheory/.*": "scales the state twice a step, so that it starts far from any solver",
}


class Golden:
    """The golden arrays by ``source:key``: from ``compact.npz``, which has such keys, or one file a source."""

    def __init__(self, folder: Path) -> None:
        full = {name: np.load(folder / f"{name}.npz") for name in SOURCES if (folder / f"{name}.npz").is_file()}
        files = full or {"": np.load(folder / "compact.npz")}
        self.found = {f"{name}:{key}" if name else key: file for name, file in files.items() for key in file.files}
        self.cases = [f"{name}:{case}" if name else str(case) for name, file in files.items() for case in file["cases"]]
        self.model = next(iter(files.values()))
        self.prefixed = not full

    def __contains__(self, key: str) -> bool:
        return key in self.found

    def __getitem__(self, key: str) -> Tensor:
        return torch.as_tensor(self.found[key][key if self.prefixed else key.partition(":")[2]])


golden = Golden(FOLDER)
mixture = Mixture.load(golden.model)
noise = torch.from_numpy(golden.model["noise"])
excused = {case: reason for case in golden.cases for name, reason in EXCUSED.items() if re.fullmatch(name, case)}
compared = [case for case in golden.cases if case not in excused]


def test_only_known_faults_are_excused() -> None:
    """What is not excused is compared below, whatever its name: an unknown solver there is an error."""
    assert len(compared) + len(excused) == len(golden.cases) >= 227
    assert len(compared) > 0.75 * len(golden.cases)


@pytest.mark.parametrize("case", compared)
def test_case(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "deis_tab" in case:  # its 10,000-point sum is itself off by 6e-5: put it in place of our quadrature
        monkeypatch.setattr(textbook, "_interpolation", rectangle_sum)
    process, solver, times = process_of(case), solver_of(case), golden[f"{case}/eval_t"]
    torch.testing.assert_close(process.time(solver.sigma_eval), times[: solver.nfe], rtol=1e-9, atol=0)
    x = process.from_edm(run(case, solver), solver.sigma[-1])
    torch.testing.assert_close(x, golden[f"{case}/x"], rtol=0, atol=1e-10)


# --- a case's name -> our solver ---


def process_of(case: str) -> Process:
    source, _, key = case.partition(":")
    name = key.split("/")[1] if source in ("ld3", "gas") else source
    if name == "vp_discrete":
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        return s4s.VPDiscrete((1 - betas).cumprod(0))
    if name == "gas_edm":  # the VP process that GAS writes EDM as
        beta_0, slope = (golden[f"gas:gas_edm/{key}"].item() for key in ("beta_min", "beta_d"))
        return s4s.VPLinear(beta_0, beta_0 + slope, t_min=1e-4)
    return {"edm": s4s.EDM, "vp_linear": s4s.VPLinear}[name]()


def solver_of(case: str) -> s4s.Solver:
    """Our table for a case, on the case's grid."""
    source, _, key = case.partition(":")
    process, called = process_of(case), golden[f"{case}/eval_t"]
    grid = process.level(golden[f"{case}/t"])
    if source == "gas":
        return gas_solver(case)
    name, options = ours(key.split("/")[2 if source == "ld3" else 1], method=key.split("/")[0])
    if key.startswith("edm/"):  # NVlabs: the ends of the steps are among the evaluations; the last step goes to 0
        outer = called[:: 2 if name == "heun" else 1]
        grid = torch.cat([outer, outer.new_zeros(1)])
    if key.startswith("dpmsolver/") and name == "dpmpp" and len(grid) > 10 and not options.get("singlestep"):
        options["lower_order_final"] = False  # the official code lowers the order below 10 steps only
    if f"{case}/orders" in golden:
        options["orders"] = golden[f"{case}/orders"].tolist()
        ends = [0, *accumulate(options["orders"])]
        options["inner"] = process.level(torch.tensor([called[i] for i in range(ends[-1]) if i not in ends]))
    nfe = classical.evaluations(name, len(grid) - 1, end_at_zero=bool(grid[-1] == 0), **options)
    seen = process.level(called[:nfe]) if "/dec" in key else None  # LD3's decoupled times
    return s4s.solver(name, grid, seen, "grid" if name == "ddim" else "eval", **options)  # LD3's euler steps with eps


def ours(text: str, method: str) -> tuple[str, dict[str, Any]]:
    """A solver's name in the golden files -> our name and options."""
    text = f"unipc_{text}" if method == "unipc" else text.removeprefix("ablation_edm_linear_none_")
    text = text.removeprefix("ablation_iddpm_linear_none_")
    text = {"euler": "ddim", "heun_edm": "heun", "dpm2": "dpm_ss2", "ipndmv2": "deis2"}.get(text, text)
    head, *words = text.split("_")
    match = re.fullmatch(r"(ddim|heun|deis|dpm|dpmpp|ipndm|unipc)(\d?)", head)
    assert match, f"{text!r}: neither a solver of ours nor excused"
    name, order = match.groups()
    options: dict[str, Any] = {"order": int(order)} if order else {}
    if name == "dpm":
        name, options["prediction"] = "dpmpp", "eps"
    for word in words:
        if word in ("x0", "eps"):
            options["prediction"] = word
        elif word == "nolof":
            options["lower_order_final"] = False
        elif word in ("bh1", "bh2", "taylor"):
            options["variant"] = word
        else:
            kind, digit = re.fullmatch(r"(ms|ss|tab|rhoab|)(\d)", word).groups()  # type: ignore[union-attr]
            options |= {"order": int(digit)} | {"ss": {"singlestep": True}, "ms": {}, "": {}}.get(
                kind, {"variant": kind}
            )
    return name, options


def run(case: str, solver: s4s.Solver) -> Tensor:
    """Sample as the case's code does. LD3 and GAS give the network the state scaled for the grid's time, together with
    another time; in our coordinates that state is larger by ``alpha(grid) / alpha(evaluation)``."""
    process, source = process_of(case), case.partition(":")[0]
    x_T = solver.sigma[0] * noise if isinstance(process, s4s.EDM) else process.to_edm(noise, solver.sigma[0])
    if source not in ("ld3", "gas"):
        return s4s.sample(solver, mixture.denoise, x_T)
    ratio = iter(process.alpha(process.time(solver.sigma[:-1])) / process.alpha(process.time(solver.sigma_eval)))
    data = source == "ld3" and not re.search("/(ipndm|dpm_)", case)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        seen = next(ratio) * x
        D = mixture.denoise(seen, sigma)
        return D if data else x - (seen - D)  # the noise prediction is (seen - D) / sigma

    return s4s.sample(solver, denoise, x_T)


def rectangle_sum(nodes: Tensor, s: Tensor, s_next: Tensor, variant: str) -> Iterator[Tensor]:
    """diff-sampler's integrals for DEIS-tab: 10,000 points, both ends counted, divided by 10,000."""
    if len(nodes) == 1:
        return iter([s_next - s])
    at, (first, last) = textbook._deis_time(nodes), textbook._deis_time(torch.stack([s, s_next]))
    points = torch.linspace(first, last, 10_000, dtype=torch.float64)
    edges = textbook._deis_time(torch.tensor([0.002, 80.0], dtype=torch.float64))
    rates = torch.tensor([[e**2 / 2, e] for e in edges], dtype=torch.float64)
    ends = torch.tensor([math.log1p(0.002**2), math.log1p(80.0**2)], dtype=torch.float64)
    beta_d, beta_0 = torch.linalg.solve(rates, ends)
    square = torch.expm1(beta_d * points**2 / 2 + beta_0 * points)  # sigma^2
    slope = (beta_d * points + beta_0) * (1 + square) / (2 * square.sqrt())  # d sigma / d time
    others = [[k for k in range(len(nodes)) if k != j] for j in range(len(nodes))]
    lagrange = [math.prod((points - at[k]) / (at[j] - at[k]) for k in ks) for j, ks in enumerate(others)]
    return iter([(slope * p).sum() * (last - first) / 10_000 for p in lagrange])


# --- GAS: corrections on top of DPM-Solver++(3M), and its gradients ---


def gas_solver(case: str, parameters: dict[str, Tensor] | None = None) -> s4s.Solver:
    """GAS with its learned corrections ``a``, ``c``, which are zero at the start and in most cases."""
    process, values = process_of(case), parameters or {}
    t = stick_breaking(values["mu_logit"], process) if parameters else golden[f"{case}/t"]
    couple, a, c = (values.get(key, golden[f"{case}/{key}"]) for key in ("t_couple", "a", "c"))
    grid, alpha, seen = process.level(t), process.alpha(t), process.level(t[:-1] + couple)
    order = int(re.search(r"order(\d+)", case)[1])  # type: ignore[index]
    if not parameters and not a.any() and not c.any():
        options = {"order": min(order, 3), "lower_order_final": False}
        return s4s.solver("dpmpp", grid, seen, "grid", **options)
    trace = textbook.Trace(grid, len(grid) - 1, seen, "grid")
    x, m = [trace.x_T], list[Tensor]()
    for n in range(len(grid) - 1):
        m.append(trace.denoise(x[n], grid[n]))
        x.append(gas_step(grid, alpha, x, m, (a / alpha[1:], c / alpha[1:]), order))
    return s4s.Solver(*trace.arrays(x[-1], grid[-1]))


def gas_step(
    grid: Tensor, alpha: Tensor, x: list[Tensor], m: list[Tensor], corrections: tuple[Tensor, Tensor], order: int
) -> Tensor:
    """DPM-Solver++ of order up to 3, corrections ``a`` on the states and ``c`` on its terms and older outputs."""
    n = len(m) - 1
    (a, c), k = (value[:, n] for value in corrections), min(n + 1, order)
    carry, phi = textbook.transfer(grid[n], grid[n + 1], "x0", 3)
    x_next = carry * x[n] - (phi[0] + c[0]) * m[n] + sum(a[i] * alpha[n - i] * x[n - i] for i in range(k))
    if k == 1:
        return x_next
    h = torch.log(grid[n] / grid[n + 1])
    r0 = torch.log(grid[n - 1] / grid[n]) / h
    D1_0 = (m[n] - m[n - 1]) / r0
    if k == 2:
        return x_next - (phi[0] / 2 + c[1]) * D1_0
    r1 = torch.log(grid[n - 2] / grid[n - 1]) / h
    D1_1 = (m[n - 1] - m[n - 2]) / r1
    D1, D2 = D1_0 + r0 / (r0 + r1) * (D1_0 - D1_1), (D1_0 - D1_1) / (r0 + r1)
    older = sum(c[i] * m[n - i] for i in range(3, k))
    return x_next - (phi[1] - c[1]) * D1 - (phi[2] + c[2]) * D2 + older


def stick_breaking(mu_logit: Tensor, process: Process) -> Tensor:
    """GAS's learnable grid, in the process's own time."""
    first, last = process.time_range
    kept = (1e-5 + (1 - 2e-5) * mu_logit.sigmoid()).cumprod(0)
    rising = last + (first - last) * (1 - kept)
    return torch.cat([rising.new_tensor([first]), rising.flip(0), rising.new_tensor([last])])


@pytest.mark.parametrize("case", [case for case in compared if f"{case}/loss" in golden])
def test_gas_gradients(case: str) -> None:
    """Loss and gradients of the official code, by autograd through grid, table and samples."""
    parameters = {key: golden[f"{case}/{key}"].requires_grad_() for key in ("a", "c", "t_couple", "mu_logit")}
    solver, process = gas_solver(case, parameters), process_of(case)
    x = process.from_edm(run(case, solver), solver.sigma[-1])
    loss = (x - golden[f"gas:truth/{case.split('/')[1]}/x"]).square().mean()
    torch.testing.assert_close(loss, golden[f"{case}/loss"], rtol=1e-9, atol=0)
    nodes = 1000 * golden[f"{case}/t"][1:-1]
    kink = isinstance(process, s4s.VPDiscrete) and bool(((nodes - nodes.round()).abs() < 1e-9).any())
    for key, ours in zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True):
        if kink and key in ("t_couple", "mu_logit"):
            continue  # a node on a corner of the piecewise linear table: two slopes, both right
        theirs = golden[f"{case}/grad_{key}"]
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8 * theirs.abs().max().item())


# --- the model, the processes, the grids ---


@pytest.mark.parametrize("probe", sorted(key[:-2] for key in golden.found if re.fullmatch(r".*probe/\d+/t", key)))
@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "flow"])
def test_probe(probe: str, prediction: str) -> None:
    """alpha, sigma and the denoiser at one time, whatever the network predicts."""
    process, (t, alpha, sigma, x) = (
        process_of(probe),
        (golden[f"{probe}/{key}"] for key in ("t", "alpha", "sigma", "x")),
    )
    for ours, theirs in ((process.alpha(t), alpha), (process.sigma(t), sigma), (process.time(sigma / alpha), t)):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    denoise = process.denoiser(mixture.network(process, prediction), prediction)
    D = denoise(process.to_edm(x, process.level(t)), process.level(t))
    torch.testing.assert_close(D, golden[f"{probe}/denoised"], rtol=0, atol=1e-11)


@pytest.mark.parametrize("source", [s for s in ("edm", "vp_linear", "vp_discrete") if f"{s}:probe/0/t" in golden])
def test_many_steps_reach_the_exact_solution(source: str) -> None:
    process = process_of(f"{source}:")
    truth = golden["edm:truth/edm/sigma0.002/x" if source == "edm" else f"{source}:truth/t0.001/x"]
    solver = s4s.solver("unipc", s4s.grid("logsnr", process, nfe=300), lower_order_final=False)
    x_T = 80 * noise if source == "edm" else process.to_edm(noise, solver.sigma[0])
    x = process.from_edm(s4s.sample(solver, mixture.denoise, x_T), solver.sigma[-1])
    torch.testing.assert_close(x, truth, rtol=0, atol=2e-6)


schedules = np.load(FOLDER / "schedules.npz") if (FOLDER / "schedules.npz").is_file() else {}
GRIDS = {
    r"diffsampler/poly(\d)/N(\d+)/t": lambda m: (s4s.EDM(), "edm", {"rho": float(m[1])}),
    r"diffsampler/logsnr/N(\d+)/t": lambda m: (s4s.EDM(), "logsnr", {}),
    r"dpmsolver/(vp_\w+)/(\w+)_tend([\d.]+)/N(\d+)/t": lambda m: (vp(m[1], float(m[3])), SKIPS[m[2]], {}),
    r"ld3/(edm|vp_\w+)/(logSNR|time_uniform)/N(\d+)/t": lambda m: (process_of(f"{m[1]}:"), SKIPS[m[2]], {}),
}
SKIPS = {"logSNR": "logsnr", "time_uniform": "uniform", "time_quadratic": "quadratic"}


def vp(name: str, t_min: float) -> Process:
    process = process_of(f"{name}:")
    return s4s.VPLinear(t_min=t_min) if name == "vp_linear" else process


@pytest.mark.parametrize("key", [key for key in schedules if any(re.fullmatch(name, key) for name in GRIDS)])
def test_grid(key: str) -> None:
    ((match, make),) = ((m, make) for name, make in GRIDS.items() if (m := re.fullmatch(name, key)))
    process, schedule, options = make(match)
    sigma = s4s.grid(schedule, process, nfe=len(schedules[key]) - 1, **options)
    theirs = torch.from_numpy(schedules[key])
    torch.testing.assert_close(process.time(sigma), theirs, rtol=1e-9, atol=1e-13)
    if f"{key[:-1]}lam" in schedules:
        torch.testing.assert_close(-sigma.log(), torch.from_numpy(schedules[f"{key[:-1]}lam"]), rtol=1e-9, atol=1e-10)
