"""A loaded pipeline as a model: equal to its own sampling, each sample with its own prompt, left as it was."""

from __future__ import annotations

import copy
import re
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from inspect import signature
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from pipelines import close, diffusers, sharper
from stable import stable  # noqa: F401, a fixture
from tiny import TINY, embeddings
from torch import Tensor

import s4s
from s4s.models import told
from s4s.models.model import Model

NAMES = list(TINY)


def asked(name: str, **options: Any) -> tuple[Any, Model]:
    case = TINY[name]()
    call = {key: value for key, value in case.call.items() if key not in ("output_type", "batch_size")}
    return case, s4s.pipeline_denoiser(case.pipe, **call | options)


def solver(model: Model, nfe: int = 4) -> s4s.Solver:
    return s4s.solver("unipc", s4s.grid("logsnr", model.process, nfe))


@torch.no_grad()
def sampled(model: Model, z: Tensor, rows: range) -> Tensor:
    made = solver(model)
    denoise = model.denoiser(model.condition(rows))
    return s4s.sample(made, denoise, model.process.to_edm(z, made.sigma[0]))


def own(pipe: Any, model: Model, z: Tensor, **call: Any) -> tuple[Tensor, Any]:
    """Last latents and result of the pipeline's own sampling with the same textbook solver and steps."""
    from s4s.integrations.diffusers import S4SScheduler

    before, steps = pipe.scheduler, []
    pipe.scheduler = made = S4SScheduler.from_solver(solver(model), model.process, model.facts["prediction"])
    step = made.step
    made.step = lambda *args, **options: steps.append(step(*args, **options)) or steps[-1]
    pipe.set_progress_bar_config(disable=True)
    draws, module = "latents" not in signature(pipe.__call__).parameters, sys.modules[type(pipe).__module__]
    start = {} if draws else {"latents": z}
    try:
        with mock.patch.object(module, "randn_tensor", (lambda *_, **__: z) if draws else module.randn_tensor):
            result = pipe(num_inference_steps=4, **start, **{"output_type": "latent"} | call)[0]
    finally:
        pipe.scheduler = before
    return steps[-1][0][: len(z)], result


def noise(model: Model, n: int) -> Tensor:
    return torch.randn(n, *model.shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_the_pipeline_s_own_sampling(name: str) -> None:
    case, model = asked(name)
    assert case.latents in (None, (2, *model.shape)) and type(model.process) is type(case.process)
    z, scheduler = noise(model, 2), case.pipe.scheduler
    x = sampled(model, z, range(2))
    assert not {"encode_prompt", "progress_bar"} & {*case.pipe.__dict__} and case.pipe.scheduler is scheduler
    close(x, own(case.pipe, model, z, **case.call)[0])


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_the_pipeline_s(name: str) -> None:
    case, model = asked(name)
    z = noise(model, 2)
    made = own(case.pipe, model, z, **case.call | ({} if "np" in case.call.values() else {"output_type": "pt"}))[1]
    images = made if isinstance(made, Tensor) else torch.as_tensor(made).permute(0, 3, 1, 2)
    found = model.decode(sampled(model, z, range(2)))
    torch.testing.assert_close(found, 2 * images - 1 if images.ndim > 3 else images, rtol=0, atol=1e-4)  # clamped to 1


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
    close(x, own(pipe, model, z, **call)[0])
    single = s4s.pipeline_denoiser(pipe, prompt="c", negative_prompt="x", guidance_scale=3.0)
    close(sampled(single, z[1:2], range(1)), x[1:2])


def drawn_from(prompts: list[str], seed: int = 0) -> list[Tensor]:
    return [embeddings(5, 8, seed=seed + zlib.crc32(prompt.encode())) for prompt in prompts]


def together(**given: Any) -> Any:
    """As most do: the two kinds of prompts one after the other, in one call."""
    return tuple(torch.stack(drawn_from(given[key])) for key in ("prompt", "negative_prompt"))


def in_turn(prompt: list[str], **_: Any) -> Any:
    """As Qwen-Image does: a call for each kind, padded to the longest, with a mask only where something is padded."""
    lengths = [len(each) + 2 for each in prompt]
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    values = torch.stack([embeddings(16, 8, seed=zlib.crc32(each.encode()))[: max(lengths)] for each in prompt])
    return values * mask[..., None], None if mask.all() else mask


def in_lists(prompt: list[str], negative_prompt: list[str], **_: Any) -> Any:
    return drawn_from(prompt), drawn_from(negative_prompt)


def in_one(prompt: list[str], device: Any, guided: bool, negative_prompt: list[str], *_: Any) -> Any:
    """As Stable Audio does: both halves of guidance in one tensor."""
    return torch.stack(drawn_from(negative_prompt) + drawn_from(prompt))


WORDS = {"Qwen-Image": in_turn, "Z-Image": in_lists, "Stable Audio": in_one, "Wan": together}


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("prompts", [["a"], ["a", "bcd", "ef"]], ids=len)
def test_prompts_in_words_are_encoded_once(name: str, prompts: list[str]) -> None:
    """However a pipeline hands its encodings on."""
    case, seen = TINY[name](), []
    case.pipe.encode_prompt = lambda *args, **given: seen.append(1) or WORDS[name](*args, **given)
    call = {key: value for key, value in case.call.items() if not re.search("prompt|output", key)}
    call |= {"prompt": prompts, "negative_prompt": "x"}
    model = s4s.pipeline_denoiser(case.pipe, **call)
    encoded, z = len(seen), noise(model, len(prompts))
    x = sampled(model, z, range(len(prompts)))
    assert 0 < encoded == len(seen)
    close(x, own(case.pipe, model, z, **call | {"negative_prompt": ["x"] * len(prompts)})[0])
    last = range(len(prompts) - 1, len(prompts))
    close(
        sampled(model, z[-1:], last),
        own(case.pipe, model, z[-1:], **call | {"prompt": prompts[-1:], "negative_prompt": ["x"]})[0],
    )


def test_stable_diffusion_2_predicts_v(stable: tuple[Path, Any]) -> None:  # noqa: F811
    parts, v = stable[1].components, {"prediction_type": "v_prediction"}
    scheduler = diffusers.DDIMScheduler.from_config(stable[1].scheduler.config, **v)
    pipe = diffusers.StableDiffusionPipeline(**parts | {"scheduler": scheduler}, requires_safety_checker=False)
    call = {"prompt": ["a", "b"], "guidance_scale": 3.0}
    model = s4s.pipeline_denoiser(pipe, **call)
    assert model.facts["prediction"] == "v"
    z = noise(model, 2)
    close(sampled(model, z, range(2)), own(pipe, model, z, **call)[0])


def test_an_adapter_of_low_rank(stable: tuple[Path, Any]) -> None:  # noqa: F811
    """A LoRA that is loaded is part of the network; without it the model is another."""
    peft = pytest.importorskip("peft")
    pipe = diffusers.StableDiffusionPipeline(**copy.deepcopy(stable[1].components), requires_safety_checker=False)
    call = {"prompt": ["a"], "guidance_scale": 3.0}
    model = s4s.pipeline_denoiser(pipe, **call)
    z = noise(model, 1)
    plain = sampled(model, z, range(1))
    torch.manual_seed(0)
    pipe.unet.add_adapter(peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["to_k", "to_q", "to_v"]))
    x = sampled(model, z, range(1))
    close(x, own(pipe, model, z, **call)[0])
    assert not torch.allclose(x, plain, rtol=1e-2)
    pipe.unet.disable_adapters()
    close(sampled(model, z, range(1)), plain)


def test_the_pipeline_s_modules_are_walked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its device is asked for in every call, which takes as long as a small network."""
    case, walks = TINY["SDXL"](), []
    kind = type(case.pipe)
    for key in ("_execution_device", "device", "dtype"):
        found = getattr(kind, key).fget
        monkeypatch.setattr(kind, key, property(lambda self, f=found: walks.append(1) or f(self)))
    model = s4s.pipeline_denoiser(case.pipe, **{k: v for k, v in case.call.items() if k != "output_type"})
    before = len(walks)
    sampled(model, noise(model, 2), range(2))
    assert before and len(walks) == before


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
    close(x, own(pipe, model, z, prompt=["a"], **call)[0])
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


@pytest.mark.parametrize("name", NAMES)
def test_each_row_has_the_gradient_of_its_own_level(name: str) -> None:
    """Although the network is told one time for all of them, and rows repeated for guidance twice."""
    case, model = asked(name)
    sharper(case.net, 1.5)
    denoise, x = model.denoiser(model.condition(range(2))), 2 * noise(model, 2)
    sigma = torch.full((2,), 2.0, dtype=torch.float64, requires_grad=True)
    D = denoise(x, sigma)
    step = 1e-3 * sigma.detach()
    with torch.no_grad():
        moved = denoise(x, sigma.detach() + step) - denoise(x, sigma.detach() - step)
    for i in range(2):
        (slope,) = torch.autograd.grad(D[i], sigma, moved[i], retain_graph=True)
        assert slope[1 - i] == 0
        assert 2 * slope[i] * step[i] == pytest.approx(moved[i].square().sum().item(), rel=0.25)
    assert not any(net._forward_pre_hooks for net in case.pipe.components.values() if isinstance(net, torch.nn.Module))


def test_a_compiled_network_has_the_gradient_too_and_other_threads_none_of_it() -> None:
    case, model = asked("SD3")
    x, sigma = 2 * noise(model, 1), torch.full((1,), 2.0, dtype=torch.float64, requires_grad=True)
    denoise = model.denoiser(model.condition(range(1)))
    (slope,) = torch.autograd.grad(denoise(x, sigma).sum(), sigma)
    case.pipe.transformer = torch.compile(case.net, backend="eager")
    (compiled,) = torch.autograd.grad(denoise(x, sigma).sum(), sigma)
    close(compiled, slope)
    with told.hooked(case.pipe, lambda *_: pytest.fail("another thread's call")), ThreadPoolExecutor(1) as pool:
        pool.submit(denoise, x, sigma.detach()).result()


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
    (lambda: asked("DDPM", batch_size=3), "batch_size= is set by the solver; leave it out"),
    (lambda: asked("SDXL", size=3), "unknown argument of StableDiffusionXLPipeline 'size'; choose one of: .*height"),
    (lambda: asked("SDXL", num_inference_steps=3), "num_inference_steps= is set by the solver; leave it out"),
    (lambda: asked("SD3")[1].denoiser(None), "needs a condition: model.condition"),
    (lambda: asked("SD3")[1].denoiser(torch.tensor([0, 5])), r"tensor of prompts' numbers, 0 to 1, got \[0, 5\]"),
    (lambda: asked("SD3")[1].denoiser(torch.tensor([-1])), r"tensor of prompts' numbers, 0 to 1, got \[-1\]"),
    (lambda: asked("SD3")[1].denoiser([0]), r"a condition is a tensor of prompts' numbers, 0 to 1, got \[0\]"),
    (lambda: asked("SDXL", t_max=1.5), "t_max = 1.5 is above the last of the 1000 times, 1"),
    (lambda: asked("SDXL", pooled_prompt_embeds=None), "StableDiffusionXLPipeline fails when it is asked for one step "
     "with these arguments: ValueError: If `prompt_embeds` are provided, `pooled_prompt_embeds` also"),
])  # fmt: skip
def test_refused_in_one_line(make: Any, message: str) -> None:
    with pytest.raises(s4s.Error, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_pipeline_that_changes_its_latents_is_refused() -> None:
    case = TINY["SDXL"]()
    prepare = case.pipe.prepare_latents
    case.pipe.prepare_latents = lambda *args: 1.1 * prepare(*args)
    with pytest.raises(s4s.Error, match="StableDiffusionXLPipeline changes the latents it is given before its first"):
        s4s.pipeline_denoiser(case.pipe, **{k: v for k, v in case.call.items() if k != "output_type"})


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
