"""Ways to misuse the scheduler: each works or is one line, none gives a silently wrong picture."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pipelines import close, ddim, diffusers, unet
from stable import stable  # noqa: F401, a fixture
from tiny import SD_BETAS, TINY, vp
from torch import Tensor

import s4s
from s4s.integrations.diffusers import S4SScheduler

PROCESS = vp()
Z = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def solver(process: Any = PROCESS, nfe: int = 4) -> s4s.Solver:
    return s4s.solver("unipc", s4s.grid("logsnr", process, nfe), order=min(3, nfe))


def scheduler(**options: Any) -> S4SScheduler:
    return S4SScheduler.from_solver(solver(), PROCESS, "eps", **options)


def run(made: S4SScheduler, z: Tensor = Z, nfe: int = 4, net: Callable[[Tensor], Tensor] = torch.sin) -> Tensor:
    made.set_timesteps(nfe)
    for t in made.timesteps:
        z = made.step(net(z), t, z).prev_sample
    return z


def started(steps: int) -> tuple[S4SScheduler, Tensor]:
    """A scheduler after some steps, and its sample."""
    made, x = scheduler(), Z
    made.set_timesteps(4)
    for t in made.timesteps[:steps]:
        x = made.step(x.sin(), t, x).prev_sample
    return made, x


def one_step(made: S4SScheduler, x: Tensor, n: int, **change: Any) -> Any:
    arguments = {"model_output": x.sin(), "timestep": scheduler().timesteps[min(n, 3)], "sample": x} | change
    return made.step(**arguments)


def tiny(name: str, made: s4s.Solver | None = None, **options: Any) -> Any:
    case = TINY[name]()
    own = solver(case.process) if made is None else made
    case.pipe.scheduler = S4SScheduler.from_solver(own, case.process, case.prediction)
    return case(**{"steps": 4} | options)


def changed(pipe: Any, i: int, t: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"latents": values["latents"] * 0.9}


def changed_in_place(pipe: Any, i: int, t: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
    values["latents"].mul_(0.9)
    return values


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "steps no solver makes": (lambda: tiny("SDXL", steps=5), "num_inference_steps=5 here, only for 4"),
    "the pipeline's default steps": (lambda: tiny("DDPM", steps=1000), "num_inference_steps=1000 here, only for 4"),
    "timesteps=": (lambda: tiny("SDXL", timesteps=[999, 500, 200, 10]), "timesteps= does not go with a fitted"),
    "sigmas= of SD3": (lambda: tiny("SD3", sigmas=[1.0, 0.7, 0.3, 0.1]), "sigmas= does not go with a fitted"),
    "sigmas= of Flux": (lambda: tiny("Flux", sigmas=[1.0, 0.7, 0.3, 0.1]), "sigmas= does not go with a fitted"),
    "begin index": (lambda: scheduler().set_begin_index(2), "starts from noise, not at step 2: image-to-image"),
    "no set_timesteps": (lambda: one_step(scheduler(), Z, 0), "call set_timesteps before the first step"),
    "a step too many": (lambda: one_step(*started(4), 4), "the solver's 4 steps are done; call set_timesteps"),
    "out of order": (lambda: one_step(*started(1), 3), r"step 1 is at time 721\.564, but was called at 30\.14"),
    "other latents": (lambda: one_step(started(2)[0], Z, 2), "latents were changed before step 2, by a callback"),
    "latents on another device": (
        lambda: one_step(started(2)[0], Z.to("meta"), 2), "the latents moved from cpu to meta before step 2; start anew"
    ),
    "latents of another size": (lambda: one_step(started(2)[0], Z[:1], 2), "were changed before step 2"),
    "a callback": (lambda: tiny("SDXL", callback_on_step_end=changed), "the latents were changed before step 1"),
    "a callback in place": (lambda: tiny("SD3", callback_on_step_end=changed_in_place), "were changed before step"),
    "output of another shape": (lambda: one_step(*started(1), 1, model_output=Z[:, :1]), r"shape \[2, 1,"),
    "prediction": (lambda: S4SScheduler.from_solver(solver(), PROCESS, "noise"), "prediction 'noise'; choose"),
    "a solver of another model": (
        lambda: S4SScheduler.from_solver(solver(s4s.EDM()), vp(SD_BETAS), "eps"),
        r"asks for levels 80 to .*, the process has 14\.61\d* to 0\.029",
    ),
    "a process that starts at sigma_max": (
        lambda: S4SScheduler.from_solver(solver(s4s.EDM()), s4s.EDM(), "eps"),
        "starts from a state with a standard deviation of 80, the host from a standard normal one",
    ),
    "a flow that starts late": (
        lambda: S4SScheduler.from_solver(solver(s4s.Flow(t_max=0.9)), s4s.Flow(), "flow"),
        "a standard deviation of 0.9, the host .* teacher set of scale=10,",
    ),
    "a mean": (
        lambda: S4SScheduler.from_solver(solver().replace(noise=s4s.Start(1.0, PROCESS.sigma_max)), PROCESS, "eps"),
        "starts from a state with a mean other than 0",
    ),
    "another scheduler's config": (lambda: S4SScheduler.from_config(ddim().config), "holds no solver: make"),
    "a card of tensors": (lambda: scheduler(card={"x": torch.ones(1)}), "the card must be of plain numbers"),
    "a damaged config": (lambda: damaged(times=[1.0]), "times, alpha and noise of unipc3 must hold 4"),
    "half a config": (lambda: damaged(solver={}), "not an s4s-solver file"),
    "a config with a part lost": (lambda: S4SScheduler(solvers=[{"times": []}]), "needs 'solver', 'times'"),
    "an unknown prediction type": (
        lambda: S4SScheduler(solvers=scheduler().config.solvers, prediction_type="x"), "unknown prediction_type 'x'"
    ),
    "several numbers of steps": (lambda: scheduler().set_timesteps([4]), r"num_inference_steps=\[4\] here, only for 4"),
    "an array of steps": (lambda: scheduler().set_timesteps(torch.tensor([3, 4])), "here, only for 4"),
    "no sigmas": (lambda: scheduler().set_timesteps(sigmas=[]), "no solver for num_inference_steps=0 here, only for 4"),
    "sigmas in words": (lambda: scheduler().set_timesteps(sigmas="even"), "sigmas is not a rectangular array"),
    "a step at no time": (lambda: one_step(*started(0), 0, timestep=None), "timestep is not a rectangular array"),
    "a step at NaN": (lambda: one_step(*started(0), 0, timestep=float("nan")), "but was called at nan"),
    "a list of solvers": (
        lambda: S4SScheduler.from_solver([solver()], PROCESS, "eps"), "a solver is needed, or a bundle.*, got list"
    ),
    "no process": (lambda: S4SScheduler.from_solver(solver(), None, "eps"), "a process is needed, .*, got NoneType"),
    "no pipeline": (lambda: scheduler().install(None), "install takes a loaded pipeline .*, got a NoneType"),
    "a pipeline without a scheduler": (lambda: scheduler().install(SimpleNamespace(scheduler=None)), "without one"),
    "guidance in words": (
        lambda: scheduler().install(SimpleNamespace(scheduler=ddim()), guidance_scale="7"),  # type: ignore[arg-type]
        "guidance_scale = '7' must be a finite number",
    ),
    "no sample": (lambda: one_step(*started(0), 0, sample=None), "the sample must be a tensor of floating point"),
    "a sample of whole numbers": (lambda: one_step(*started(0), 0, sample=Z.long()), "got torch.int64"),
    "no output": (lambda: one_step(*started(0), 0, model_output=(Z,)), "the network's output must be .*, got tuple"),
    "steps in words": (lambda: scheduler().add_noise(Z, Z, "3"), "timesteps is not a rectangular array"),  # type: ignore[arg-type]
    "steps of other samples": (lambda: scheduler().add_noise(Z, Z, torch.ones(3)), "3 timesteps for 2 samples"),
    "a card in words": (lambda: scheduler(card="abc"), "the card must be of plain numbers"),
    "no number of a bundle": (
        lambda: S4SScheduler.from_solver({n: solver(nfe=n) for n in (3, 4)}, PROCESS, "eps").set_timesteps(),
        "no solver for num_inference_steps=None here, only for 3, 4",
    ),
}  # fmt: skip


def damaged(**change: Any) -> S4SScheduler:
    return S4SScheduler(solvers=[copy.deepcopy(scheduler().config.solvers[0]) | change])


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(s4s.Error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def sd_components(pipe: Any) -> dict[str, Any]:
    made = S4SScheduler.from_solver(solver(vp(SD_BETAS)), vp(SD_BETAS), "eps")
    return pipe.components | {"scheduler": made}


CALL = {"prompt": ["a"], "num_inference_steps": 4, "output_type": "latent"}


def test_image_to_image_below_full_strength(stable: tuple[Path, Any]) -> None:  # noqa: F811
    pipe = diffusers.StableDiffusionImg2ImgPipeline(**sd_components(stable[1]), requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(s4s.Error, match="starts from noise, not at step 2: image-to-image with strength"):
        pipe(image=image, strength=0.5, **CALL)
    assert torch.as_tensor(pipe(image=image, strength=1.0, **CALL)[0]).isfinite().all()


def test_inpainting_with_an_ordinary_network(stable: tuple[Path, Any]) -> None:  # noqa: F811
    """It puts the known part back after every step."""
    pipe = diffusers.StableDiffusionInpaintPipeline(**sd_components(stable[1]), requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    with pytest.raises(s4s.Error, match="the latents were changed before step 1, by a callback, inpainting"):
        pipe(image=image, mask_image=mask, strength=1.0, height=16, width=16, **CALL)


def test_a_card_that_cannot_be_saved_destroys_nothing(tmp_path: Path) -> None:
    scheduler(card={"model": "a"}).save_pretrained(tmp_path)
    before = (tmp_path / "scheduler_config.json").read_bytes()
    with pytest.raises(s4s.Error):
        scheduler(card={"x": torch.ones(1)}).save_pretrained(tmp_path)
    assert (tmp_path / "scheduler_config.json").read_bytes() == before


# --- what works ---


def test_again_and_with_another_batch() -> None:
    made, expected = scheduler(), run(scheduler())
    assert torch.equal(run(made), expected)
    assert run(made, Z[:1]).shape[0] == 1
    assert torch.equal(run(made), expected) and not made._outputs and made._first is None


def test_after_an_exception_in_the_middle() -> None:
    made, _ = started(2)
    assert torch.equal(run(made), run(scheduler()))


def test_two_pipelines_with_one_scheduler() -> None:
    """One after the other works; one within the other is found out."""
    made = scheduler()
    assert torch.equal(run(made), run(made))
    made.set_timesteps(4)
    x = made.step(Z.sin(), made.timesteps[0], Z).prev_sample
    other = run(made, -Z)
    with pytest.raises(s4s.Error, match="steps are done"):
        made.step(x.sin(), made.timesteps[1], x)
    made.set_timesteps(4)
    made.step(Z.sin(), made.timesteps[0], -Z)
    with pytest.raises(s4s.Error, match="the latents were changed before step 1"):
        made.step(x.sin(), made.timesteps[1], x)
    assert torch.equal(other, run(scheduler(), -Z))


def test_copies_and_pickles() -> None:
    expected = run(scheduler())
    assert torch.equal(run(copy.deepcopy(scheduler())), expected)
    assert torch.equal(run(pickle.loads(pickle.dumps(scheduler()))), expected)
    assert torch.equal(run(S4SScheduler.from_config(scheduler().config)), expected)


def test_a_callback_that_only_looks() -> None:
    seen: list[Tensor] = []

    def look(pipe: Any, i: int, t: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(values["latents"].clone())
        return values

    looked = tiny("SDXL", callback_on_step_end=look)[0]
    assert len(seen) == 4 and torch.equal(looked, tiny("SDXL")[0]) and torch.equal(looked, seen[-1])


def test_inference_mode_and_double_precision() -> None:
    with torch.inference_mode():
        assert torch.equal(run(scheduler()), run(scheduler()))
    double = run(scheduler(), Z.double())
    assert double.dtype == torch.float64
    close(run(scheduler()), double)


def test_gradients_pass() -> None:
    z = Z.double().requires_grad_()
    (slope,) = torch.autograd.grad(run(scheduler(), z).sum(), z)
    assert slope.isfinite().all() and slope.abs().max() > 0


def test_a_network_that_predicts_a_variance_too() -> None:
    net = unet(in_channels=3, out_channels=6)
    pipe = diffusers.DDPMPipeline(net, scheduler())
    pipe.set_progress_bar_config(disable=True)
    found = pipe(num_inference_steps=4, generator=torch.manual_seed(0), output_type="np").images
    z = torch.randn(1, 3, 8, 8, generator=torch.manual_seed(0))
    made, x = scheduler(), z
    made.set_timesteps(4)
    with torch.no_grad():
        for t in made.timesteps:
            x = made.step(net(x, t).sample[:, :3], t, x).prev_sample
    close(torch.from_numpy(found).permute(0, 3, 1, 2), (x / 2 + 0.5).clamp(0, 1))


def test_a_network_that_writes_to_its_output_again() -> None:
    """Compiled networks do; a data prediction would be the same tensor at every step."""
    made = S4SScheduler.from_solver(solver(), PROCESS, "x0")
    buffer = torch.empty_like(Z)
    reused = run(made, net=lambda x: torch.sin(x, out=buffer))
    assert torch.equal(reused, run(made))


def test_a_network_that_predicts_a_variance_too_and_writes_to_its_output_again() -> None:
    made = S4SScheduler.from_solver(solver(), PROCESS, "x0")
    buffer = torch.empty(Z.shape[0], 2 * Z.shape[1], *Z.shape[2:])
    reused = run(made, net=lambda x: torch.cat([x.sin(), x], 1, out=buffer))
    assert torch.equal(reused, run(made))


def test_a_change_in_place_is_seen_in_inference_mode_too() -> None:
    with torch.inference_mode():
        made, x = started(2)
        x.mul_(1.5)
        with pytest.raises(s4s.Error, match="the latents were changed before step 2"):
            one_step(made, x, 2)


@pytest.mark.parametrize("inference", [False, True])
def test_latents_that_are_not_finite_were_not_changed(inference: bool) -> None:
    """Half precision overflows in some pipelines; that is for the eye to see, and no callback's doing."""
    with torch.inference_mode(inference):
        assert run(scheduler(), Z.half(), net=lambda x: x.clone().fill_(math.nan)).isnan().all()
        assert run(scheduler(), net=lambda x: x.clone().fill_(math.nan)).isnan().all()


def test_numbers_as_people_have_them() -> None:
    """Steps and times of numpy and torch, a table seen from its end."""
    turned = s4s.VPDiscrete(PROCESS.alphas_cumprod.numpy()[::-1].copy()[::-1])  # type: ignore[arg-type]
    made = S4SScheduler.from_solver(solver(), turned, "eps")
    assert made.config.trained_betas == scheduler().config.trained_betas
    for steps in (np.int64(4), torch.tensor(4)):
        made.set_timesteps(steps)
        assert type(made.num_inference_steps) is int
    assert one_step(made, Z, 0, timestep=np.float32(999)).prev_sample.isfinite().all()


def test_one_step_and_an_end_at_zero() -> None:
    """PixArt takes a single step's prediction of x_0 from the tuple."""
    single = s4s.solver("ddim", s4s.grid([PROCESS.sigma_max, 0.0], PROCESS, 1))
    assert torch.as_tensor(tiny("PixArt", single, steps=1)[0]).isfinite().all()
    ended = s4s.solver("dpmpp", s4s.grid("logsnr", PROCESS, 4, end_at_zero=True), order=2)
    assert run(S4SScheduler.from_solver(ended, PROCESS, "eps")).isfinite().all()
    assert run(S4SScheduler.from_solver(solver(nfe=3).finish(), PROCESS, "eps")).isfinite().all()


def test_own_time_of_a_flow_is_kept() -> None:
    """A process that already says what the network is told."""

    class Thousand(s4s.Flow):
        def model_time(self, level: Any) -> Tensor:
            return 1000 * self.time(level)

    a, b = (S4SScheduler.from_solver(solver(p), p, "flow") for p in (s4s.Flow(), Thousand()))
    torch.testing.assert_close(a.timesteps, b.timesteps)
