"""A fitted solver where ComfyUI calls a sampler: its levels, starting noise and coordinates, and what it reports.

Nothing of ComfyUI is imported here. What kind a model is, its own ``model_sampling`` says when it is asked: models of
eps and v have the state ``x_0 + sigma eps``, ours; flows have ``(1 - sigma) x_0 + sigma eps`` with sigma in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error
from s4s.guidance import require_mixed
from s4s.integrations.sigmas import NEAR, same_levels
from s4s.noise import Start
from s4s.solver import Solver, sample

OUTSIDE = 0.01  # relative; how far a solver's levels may lie outside the model's
PICTURE = 0.01  # how far below 1 the first state's standard deviation may be, before noise alone is too little
TOP = 1e-5  # relative; ComfyUI makes more noise where the first sigma is the model's largest to within this
LITTLE = 0.5  # of the noise there should be: less has another reason than chance


def flows(model_sampling: Any) -> bool:
    """Whether a model's sigmas are times of a flow.

    Raises:
        Error: its states are neither of the two kinds.
    """
    half, one = torch.tensor(0.5), torch.ones(1)
    back = model_sampling.inverse_noise_scaling(half, one.clone()).item()
    noise = model_sampling.noise_scaling(half, one.clone(), torch.zeros(1), False).item()
    if back not in (1.0, 2.0) or noise == 0:
        raise Error(f"a model whose noise is of another kind ({type(model_sampling).__name__}); a fitted solver runs "
                    "in models of eps, v and flow")  # fmt: skip
    return back == 2.0


def sigmas_of(solver: Solver, model_sampling: Any) -> Tensor:
    """A solver's levels as the model's SIGMAS, float32 [N+1], the first the model's own float if it is its largest.

    Raises:
        Error: the solver leaves noise in the latent, asks for levels that the model does not have, or starts where a
            part of the picture would have to be there; or it has guidance of its own.
    """
    require_mixed(solver, "ComfyUI")
    if solver.sigma[-1] != 0:
        raise Error(f"{solver.name} ends at level {solver.sigma[-1].item():.4g}, and ComfyUI would leave that noise in "
                    "the latent: finish it, with solver.finish()")  # fmt: skip
    flow = flows(model_sampling)
    _require_known(solver, model_sampling, flow)
    _require_noise_alone(solver, flow)
    sigmas = to_host(solver.detach().sigma, flow).float()
    top = torch.as_tensor(model_sampling.sigma_max).float().cpu()
    if not flow and (sigmas[0] / top - 1).abs() < NEAR:
        sigmas[0] = top
    if flow and sigmas[0] >= 1:
        raise Error(f"{solver.name} starts at level {solver.sigma[0].item():.4g}, the time 1 of a flow, where there is "
                    "no picture left: fit it from t_max=0.999")  # fmt: skip
    return sigmas


def sample_comfyui(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Mapping[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    solver: Solver,
) -> Tensor:
    """Run a fitted solver where ComfyUI's ``KSAMPLER`` calls a sampler function.

    Args:
        model: called with a state [B, ...] and sigmas [B], gives x_0.
        x: [B, ...] the first state, noise and latent image as ``KSAMPLER`` has mixed them.
        sigmas: of ``sigmas_of(solver, ...)``.
        extra_args: of the model.
        callback: called after every evaluation with ``x``, ``i``, ``sigma``, ``sigma_hat`` and ``denoised``.
        disable: not used, the callback moves ComfyUI's own progress bar.
        solver: it ends at level 0.

    Raises:
        Error: other sigmas than the solver's own, a mask, a latent without noise.
    """
    options = dict(extra_args or {})
    sampling = model.inner_model.inner_model.model_sampling
    flow = flows(sampling)
    _require_own(sigmas, sigmas_of(solver, sampling))
    if options.get("denoise_mask") is not None:
        raise Error("the latent has a noise mask: what it keeps is put back before every evaluation, which a fitted "
                    "solver does not follow; inpaint with another sampler")  # fmt: skip

    def at(state: Tensor, level: Tensor) -> Tensor:
        return state / (1 + level) if flow else state

    def denoise(state: Tensor, level: Tensor) -> Tensor:
        out: Tensor = model(at(state, level), to_host(level, flow).to(state).expand(len(state)), **options)
        return out

    def report(n: int, state: Tensor, D: Tensor) -> None:
        if callback is not None:
            callback(
                {"x": at(state, solver.sigma[n]), "i": n, "sigma": sigmas[n], "sigma_hat": sigmas[n], "denoised": D}
            )

    return sample(solver, denoise, _start(solver, x, sigmas[0], sampling, flow), callback=report)


def _start(solver: Solver, x: Tensor, first: Tensor, sampling: Any, flow: bool) -> Tensor:
    """The first state in our coordinates, its noise scaled as the solver was fitted on."""
    top = float(sampling.sigma_max)
    most = math.isclose(top, float(first), rel_tol=TOP) or float(first) > top
    made = sampling.noise_scaling(first.cpu(), torch.ones(1), torch.zeros(1), most).item()
    if x.std() < LITTLE * made:
        raise Error(f"the latent's noise is {x.std().item():.3g}, and sigma {float(first):.4g} needs {made:.4g}: a "
                    "fitted solver starts from noise, so let the sampler add it")  # fmt: skip
    wanted = solver.noise or Start(0.0, solver.sigma[0].item())
    mean, scale = (torch.as_tensor(value).to(x) for value in (wanted.mean, wanted.scale))
    return mean + scale / made * x


def to_host(level: Tensor, flow: bool) -> Tensor:
    """A level as ComfyUI has it: of a flow the time in [0, 1]."""
    return level / (1 + level) if flow else level


def _require_own(sigmas: Tensor, own: Tensor) -> None:
    if not same_levels(sigmas, own):
        raise Error(f"these {len(sigmas)} SIGMAS are not the solver's own {len(own)}, and its weights belong to its "
                    "levels: take SIGMAS from the node that gives SAMPLER, whole (no denoise below 1)")  # fmt: skip


def _require_known(solver: Solver, sampling: Any, flow: bool) -> None:
    """Refuse a solver of another model, where that can be seen."""
    told = solver.detach().sigma_eval
    high, low = (math.inf, 0.0) if flow else (float(sampling.sigma_max), float(sampling.sigma_min))
    if told.max() > high * (1 + OUTSIDE) or told.min() < low * (1 - OUTSIDE):
        raise Error(f"{solver.name} asks for levels {told.max().item():.6g} to {told.min().item():.6g}, the model has "
                    f"{high:.6g} to {low:.6g}: it was fitted for another")  # fmt: skip


def _require_noise_alone(solver: Solver, flow: bool) -> None:
    """Refuse a solver that starts where the picture still shows, unless it was fitted on a start of noise alone."""
    first = solver.sigma[0].item()
    deviation = first / (1 + first) if flow else first / math.hypot(1, first)
    if solver.noise is None and deviation < 1 - PICTURE:
        raise Error(f"{solver.name} starts at level {first:.4g}, where noise alone has a standard deviation of "
                    f"{deviation:.3g} and not 1: it was fitted for another kind of model, or needs a teacher set with "
                    "scale=")  # fmt: skip
