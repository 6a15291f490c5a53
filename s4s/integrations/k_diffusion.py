"""A fitted solver as a k-diffusion sampler, and a k-diffusion model as a denoiser to fit on.

k-diffusion's state is ours, ``x = x_0 + sigma eps``, and its models give ``x_0``. Nothing of it is imported, so this
runs in whatever calls samplers by its conventions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from s4s.errors import Error
from s4s.guidance import require_mixed
from s4s.integrations.plan import solvers_of
from s4s.integrations.sigmas import same_levels
from s4s.process import any_levels
from s4s.solver import Denoise, Solver, require_solver, sample
from s4s.values import doubles, require_function

OWN = "take those of get_sigmas_s4s(solver)"

Model = Callable[..., Tensor]
"""``model(x, sigma, **extra_args) -> x_0``, sigma [B]."""


@torch.no_grad()
def sample_s4s(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Mapping[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    solver: Solver | Mapping[int, Solver],
) -> Tensor:
    """Run a fitted solver where a host calls ``sample_dpmpp_2m(model, x, sigmas, ...)``.

    Args:
        model: a k-diffusion model, called with the level of each row.
        x: [B, ...] ``sigmas[0]`` times noise; a solver that starts from another mean or scale makes its own of it.
        sigmas: what ``get_sigmas_s4s`` gives: the solver's levels; with a 0 after them, the solver is finished by one
            more evaluation, as hosts do.
        extra_args: of the model.
        callback: called after every evaluation with ``x``, ``i``, ``sigma``, ``sigma_hat`` and ``denoised``.
        disable: the progress bar.
        solver: a solver, or a bundle or curve, of which the number of sigmas picks one.

    Raises:
        Error: other sigmas than the solver's own: its weights belong to its levels; or guidance of its own.
    """
    chosen = _chosen(solver, doubles(sigmas, "sigmas").flatten())
    require_mixed(chosen, "the host")
    with tqdm(total=chosen.nfe, disable=disable) as bar:

        def report(n: int, x_n: Tensor, D: Tensor) -> None:
            bar.update()
            if callback is not None:
                level = chosen.sigma[n].to(x)
                callback({"x": x_n, "i": n, "sigma": level, "sigma_hat": level, "denoised": D})

        x_T = x if chosen.noise is None else chosen.x_T(x / chosen.sigma[0].item())
        return sample(chosen, denoiser(model, extra_args), x_T, callback=report)


def get_sigmas_s4s(solver: Solver, *, finish: bool = False, device: str | torch.device = "cpu") -> Tensor:
    """The sigmas to sample with, float32 [N+1]; ``finish`` adds the 0 that asks for one more evaluation."""
    require_solver(solver)
    made = solver.finish() if finish else solver
    return made.sigma.detach().to(device, torch.float32)


def denoiser(model: Model, extra_args: Mapping[str, Any] | None = None) -> Denoise:
    """``denoise(x, sigma)`` of a k-diffusion model, for ``s4s.teacher_set``, ``s4s.fit`` and ``s4s.sample``."""
    require_function(model, "a model of k-diffusion", "K.external.CompVisDenoiser(net)")
    options = dict(extra_args or {})

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return model(x, sigma.to(x).expand(len(x)), **options)

    return any_levels(denoise)


def _chosen(solver: Solver | Mapping[int, Solver], sigmas: Tensor) -> Solver:
    """The solver whose levels the sigmas are."""
    solvers, n = solvers_of(solver), len(sigmas) - 1
    wanted = [each for each in solvers if each.nfe == n]
    wanted += [each.finish() for each in solvers if each.nfe == n - 1 and each.sigma[-1] > 0 and sigmas[-1] == 0]
    for each in wanted:
        if same_levels(sigmas, each.sigma):
            return each
    if not wanted:
        numbers = ", ".join(str(each.nfe) for each in solvers)
        raise Error(f"{len(sigmas)} sigmas are for {n} evaluations, the solver makes {numbers}: {OWN}")
    raise Error(f"these sigmas are not the solver's own, and its weights belong to its levels: {OWN}")
