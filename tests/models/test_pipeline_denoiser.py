"""A loaded pipeline as a model: equal to its own sampling, each sample with its own prompt, left as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pipelines import close, diffusers
from stable import stable  # noqa: F401, a fixture
from tiny import TINY, ddpm
from torch import Tensor

import s4s
from s4s.models.model import Model

NAMES = [name for name in TINY if name not in ("DDPM", "LDM", "DiT")]


def asked(name: str, **options: Any) -> tuple[Any, Model]:
    case = TINY[name]()
    call = {key: value for key, value in case.call.items() if key != "output_type"}
    return case, s4s.pipeline_denoiser(case.pipe, **call | options)


def solver(model: Model, nfe: int = 4) -> s4s.Solver:
    return s4s.solver("unipc", s4s.grid("logsnr", model.process, nfe))


@torch.no_grad()
def sampled(model: Model, z: Tensor, rows: range) -> Tensor:
    made = solver(model)
    denoise = model.denoiser(model.condition(rows))
    return s4s.sample(made, denoise, model.process.to_edm(z, made.sigma[0]))


def own(pipe: Any, model: Model, z: Tensor, **call: Any) -> Tensor:
    """The pipeline's own sampling with the same textbook solver and steps."""
    from s4s.integrations.diffusers import S4SScheduler

    before = pipe.scheduler
    pipe.scheduler = S4SScheduler.from_solver(solver(model), model.process, model.facts["prediction"])
    pipe.set_progress_bar_config(disable=True)
    try:
        return torch.as_tensor(pipe(latents=z, num_inference_steps=4, **{"output_type": "latent"} | call)[0])
    finally:
        pipe.scheduler = before


def noise(model: Model, n: int) -> Tensor:
    return torch.randn(n, *model.shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_the_pipeline_s_own_sampling(name: str) -> None:
    case, model = asked(name)
    assert model.shape == case.latents[1:] and type(model.process) is type(case.process)
    z, scheduler = noise(model, 2), case.pipe.scheduler
    x = sampled(model, z, range(2))
    assert not {"encode_prompt", "progress_bar"} & {*case.pipe.__dict__} and case.pipe.scheduler is scheduler
    close(x, own(case.pipe, model, z, **case.call))


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_the_pipeline_s(name: str) -> None:
    case, model = asked(name)
    z = noise(model, 2)
    images = own(case.pipe, model, z, **case.call | {"output_type": "pt"})
    close(model.decode(sampled(model, z, range(2))), 2 * images - 1)


@pytest.mark.parametrize("name", ["SDXL", "Z-Image"])
def test_a_sample_has_its_own_prompt_and_level(name: str) -> None:
    """Whatever the batch: rows in any order, stacked copies, a level each."""
    _, model = asked(name)
    x = 5 * noise(model, 4).double()
    high = model.process.levels[1]
    levels = torch.tensor([0.5, 0.2, 0.5, 0.1], dtype=torch.float64) * min(high, 10)
    condition = model.condition(range(3, 5))
    assert condition.tolist() == [1, 0]
    with torch.no_grad():
        together = model.denoiser(condition)(x, levels)
        for i in range(4):
            alone = model.denoiser(condition[[i % 2]])(x[i : i + 1], levels[i])
            close(together[i : i + 1], alone)
    assert not torch.allclose(*(model.denoiser(torch.tensor([k]))(x[:1], levels[0]) for k in (0, 1)), rtol=1e-3)


def test_stable_diffusion_encodes_its_prompts_once(stable: tuple[Path, Any]) -> None:  # noqa: F811
    pipe, seen = stable[1], []
    handle = pipe.text_encoder.register_forward_pre_hook(lambda *_: seen.append(1))
    try:
        prompts = ["a b", "c", "d e f"]
        model = s4s.pipeline_denoiser(pipe, prompt=prompts, negative_prompt="x", guidance_scale=3.0)
        encoded = len(seen)
        z = noise(model, 3)
        x = sampled(model, z, range(3))
        assert encoded and len(seen) == encoded
    finally:
        handle.remove()
    call = {"prompt": prompts, "negative_prompt": ["x"] * 3, "guidance_scale": 3.0}
    close(x, own(pipe, model, z, **call))
    single = s4s.pipeline_denoiser(pipe, prompt="c", negative_prompt="x", guidance_scale=3.0)
    close(sampled(single, z[1:2], range(1)), x[1:2])


def test_a_control_network(stable: tuple[Path, Any]) -> None:  # noqa: F811
    torch.manual_seed(5)
    control = diffusers.ControlNetModel.from_unet(stable[1].unet, conditioning_embedding_out_channels=(8, 8)).eval()
    for layer in (*control.controlnet_down_blocks, control.controlnet_mid_block):
        torch.nn.init.normal_(layer.weight, std=0.3)
    pipe = diffusers.StableDiffusionControlNetPipeline(
        **stable[1].components, controlnet=control, requires_safety_checker=False
    )
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    call = {"image": image, "guidance_scale": 3.0, "controlnet_conditioning_scale": 1.5}
    model = s4s.pipeline_denoiser(pipe, prompt="a", **call)
    plain = s4s.pipeline_denoiser(stable[1], prompt="a", guidance_scale=3.0)
    z = noise(model, 1)
    x = sampled(model, z, range(1))
    close(x, own(pipe, model, z, prompt=["a"], **call))
    assert not torch.allclose(x, sampled(plain, z, range(1)), rtol=1e-2)


@pytest.mark.parametrize("radius", [0.0, 0.05])
def test_a_fit_through_a_pipeline(radius: float) -> None:
    """By differences alone, and with a gradient through the pipeline."""
    _, model = asked("PixArt")
    options: dict[str, Any] = {"condition": model.condition, "batch": 12}
    teacher = s4s.teacher_set(solver(model, 12), model.denoiser, 12, model.shape, **options)
    assert teacher.condition is not None and teacher.condition.tolist() == [0, 1] * 6
    start = s4s.solver("ddim", s4s.grid("logsnr", model.process, 3))
    result = s4s.fit(start, model.denoiser, teacher, "s4s", rounds=2, validation=4, radius=radius)
    assert result.val_loss < result.start_loss


def test_gradients_are_those_of_differences() -> None:
    _, model = asked("SD3")
    denoise, z = model.denoiser(model.condition(range(2))), noise(model, 2).double()
    x, v = (3 * z).requires_grad_(), noise(model, 2).double().flip(0)
    sigma = torch.tensor(2.0, dtype=torch.float64)
    (slope,) = torch.autograd.grad(denoise(x, sigma).sum(), x)
    with torch.no_grad():
        moved = (denoise(x + 1e-2 * v, sigma) - denoise(x - 1e-2 * v, sigma)).sum() / 2e-2
    torch.testing.assert_close((slope * v).sum(), moved, rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: s4s.pipeline_denoiser(ddpm().pipe), "DDPMPipeline takes no latents, so its network"),
    (lambda: asked("SDXL", size=3), "unknown argument of StableDiffusionXLPipeline 'size'; choose one of: .*height"),
    (lambda: asked("SDXL", num_inference_steps=3), "num_inference_steps= is set by the solver; leave it out"),
    (lambda: asked("SD3")[1].denoiser(None), "needs a condition: model.condition"),
])  # fmt: skip
def test_refused_in_one_line(make: Any, message: str) -> None:
    with pytest.raises(s4s.Error, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_pipelines_that_start_from_an_image_or_another_process(stable: tuple[Path, Any]) -> None:  # noqa: F811
    parts = stable[1].components
    inpaint = diffusers.StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)
    with pytest.raises(s4s.Error, match="StableDiffusionInpaintPipeline starts from an image"):
        s4s.pipeline_denoiser(inpaint, prompt="a")
    other = diffusers.StableDiffusionPipeline(
        **parts | {"scheduler": diffusers.EDMEulerScheduler()}, requires_safety_checker=False
    )
    with pytest.raises(s4s.Error, match="unknown scheduler 'EDMEulerScheduler'; choose one of"):
        s4s.pipeline_denoiser(other, prompt="a")
