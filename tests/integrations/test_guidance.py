"""A solver's own guidance in hosts that mix the two outputs themselves: tiny pipelines, and ComfyUI's rule."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfy_host import Discrete, FlowTimes
from stable import stable
from tiny import SD_BETAS, embeddings, vp
from torch import Tensor

import s4s
from s4s.errors import Error
from s4s.guidance import guided, merge_guidance, split_guidance
from s4s.integrations.diffusers import S4SScheduler
from s4s.integrations.guidance import comfyui_function, diffusers_callback
from s4s.integrations.k_diffusion import sample_s4s
from s4s.learn.skip import without

assert stable, "the fixture"
PROCESS = vp(SD_BETAS)


def own(scales: tuple[float, ...], skipped: int | None = None, process: s4s.Process = PROCESS) -> s4s.Solver:
    """DPM-Solver++ of two steps, its guidance a scale at every evaluation."""
    plain = s4s.solver("dpmpp", s4s.grid("uniform", process, nfe=len(scales)), order=2)
    made = split_guidance(plain, 2.0)
    assert made.null is not None
    g = torch.tensor(scales, dtype=torch.float64)
    made = made.replace(weight=plain.weight * g, null=plain.weight * (1 - g))
    return made if skipped is None else without(made, skipped, scaled=True)


@pytest.mark.parametrize("skipped", [None, 2])
def test_a_diffusers_pipeline_takes_a_scale_a_step(stable: tuple[Any, Any], skipped: int | None) -> None:
    """The callback makes the pipeline's images those of the solver with guidance of its own, to rounding."""
    pipe, solver = stable[1], own((3.0, 1.5, 4.0, 2.0), skipped)
    merged, scales = merge_guidance(solver)
    assert scales == pytest.approx([3.0, 1.5, 4.0 if skipped is None else 1.0, 2.0])
    pipe.scheduler = S4SScheduler.from_solver(merged, PROCESS, prediction="eps")
    prompt, none = embeddings(1, 12, 8), embeddings(1, 12, 8, seed=8)
    calls: list[int] = []
    count = pipe.unet.register_forward_hook(lambda net, args, out: calls.append(len(args[0])))
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    made = pipe(prompt_embeds=prompt, negative_prompt_embeds=none, num_inference_steps=4, guidance_scale=scales[0],
                callback_on_step_end=diffusers_callback(scales), latents=latents, output_type="latent",
                callback_on_step_end_tensor_inputs=["prompt_embeds"]).images  # fmt: skip
    count.remove()
    assert calls == [2, 2, 2 if skipped is None else 1, 2]

    def denoiser(words: Tensor) -> Any:
        return PROCESS.denoiser(lambda x, t: pipe.unet(x, t, encoder_hidden_states=words).sample, "eps")

    with torch.no_grad():
        x = s4s.sample(solver, guided(denoiser(prompt), denoiser(none), 2.0), PROCESS.to_edm(latents, solver.sigma[0]))
    assert torch.allclose(made, x, atol=2e-4 * x.abs().max().item())


@pytest.mark.parametrize("finish", [False, True])
@pytest.mark.parametrize(("process", "sampling"), [(PROCESS, Discrete()), (s4s.Flow(), FlowTimes())])
def test_comfyui_takes_a_scale_a_level(process: s4s.Process, sampling: Any, finish: bool) -> None:
    """As ComfyUI has it: the function is given input minus each output, and its result is taken from the input."""
    solver, host = own((3.0, 1.5, 4.0, 2.0), process=process), SimpleNamespace(model_sampling=sampling)
    flow = process is not PROCESS  # whose sigma is the time in [0, 1]
    merged, scales = merge_guidance(solver)
    function = comfyui_function(merged, scales)
    merged, solver = (merged.finish(), solver.finish()) if finish else (merged, solver)  # as the host's node does
    with_, none = (lambda x, sigma: x / (1 + sigma**2), lambda x, sigma: torch.tanh(x) / (1 + sigma))

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.reshape(-1, 1)
        cond, uncond = (x - part(x, level) for part in (with_, none))
        time = (sigma.double() / (1 + sigma.double()) if flow else sigma).float()
        args = {"cond": cond, "uncond": uncond, "sigma": time, "cond_scale": 7.0, "input": x, "model": host}
        return x - function(args)

    x_T = merged.x_T(s4s.noise(0, range(3), (2,)))
    by_host = sample_s4s(model, x_T, merged.sigma, solver=merged, disable=True)
    assert torch.allclose(by_host, s4s.sample(solver, guided(with_, none, 2.0), x_T), atol=1e-9)
    with pytest.raises(Error, match=r"is not asked at sigma 0\.8"):
        function({"cond": x_T, "uncond": x_T, "sigma": torch.tensor([0.8]), "model": host})


def test_hosts_refuse_what_they_cannot_do() -> None:
    solver = own((3.0, 1.5, 4.0, 2.0))
    with pytest.raises(Error, match=r"has guidance of its own, and the host applies its own: s4s\.merge_guidance"):
        S4SScheduler.from_solver(solver, PROCESS, prediction="eps")
    with pytest.raises(Error, match="has guidance of its own"):
        sample_s4s(lambda x, sigma: x, torch.ones(1, 2), solver.sigma, solver=solver, disable=True)
    with pytest.raises(Error, match=r"a scale of 0\.5: diffusers' pipelines take scales below 1 for no guidance"):
        diffusers_callback([3.0, 0.5])
    merged, scales = merge_guidance(solver)
    for wrong in ([], [3.0, math.nan, 2.0, 2.0], [3.0, math.inf, 2.0, 2.0], [scales]):
        for make in (diffusers_callback, partial(comfyui_function, merged)):
            with pytest.raises(Error, match=r"scales must be finite numbers, one for every step, got \["):
                make(wrong)
    ended = s4s.solver("dpmpp", s4s.grid("logsnr", PROCESS, 4, end_at_zero=True), order=2)
    for made, few in ((merged, scales[:3]), (merged, [*scales, 2.0]), (ended, scales[:3]), (merged.finish(), [3.0])):
        with pytest.raises(Error, match=rf"{len(few)} scales for the {made.nfe} evaluations of dpmpp2"):
            comfyui_function(made, few)
    with pytest.raises(Error, match="the first scale is 1"):
        diffusers_callback([1.0, 2.0])
    with pytest.raises(Error, match="weighs the outputs of evaluation 0"):
        merge_guidance(without(solver, 1))


def test_two_evaluations_at_one_level_have_one_scale_in_comfyui() -> None:
    """Heun's method asks twice at every level between, which the host says alike."""
    heun = s4s.solver("heun", s4s.grid("edm", PROCESS, 2))
    function = comfyui_function(*merge_guidance(split_guidance(heun, 3.0)))
    one, host = torch.ones(1, 2), SimpleNamespace(model_sampling=Discrete())
    for level in heun.sigma_eval:
        assert torch.allclose(function({"cond": one, "uncond": 0 * one, "sigma": level[None], "model": host}), 3 * one)
    with pytest.raises(Error, match=r"heun has two scales at level 1\.\d+, which ComfyUI cannot tell apart"):
        comfyui_function(heun, [3.0, 2.0, 4.0, 4.0])
