"""The scheduler in tiny random pipelines: equal to ``s4s.sample``, saved and loaded, in half precision, misused."""

from __future__ import annotations

import copy
import functools
import json
import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pipelines import close, ddim, diffusers, unet
from stable import stable  # noqa: F401, a fixture
from tiny import SD_BETAS, TINY, Case, vp
from torch import Tensor

import s4s
from s4s.errors import Notice
from s4s.integrations.diffusers import S4SScheduler
from s4s.process import PREDICTIONS


def solver(process: Any, nfe: int = 4, name: str = "unipc", **options: Any) -> s4s.Solver:
    return s4s.solver(name, s4s.grid("logsnr", process, nfe), **{"order": 3} | options)


def decoupled(process: Any, nfe: int = 4) -> s4s.Solver:
    """Evaluations at levels that are not the nodes': what LD3 and S4S-Alt learn."""
    grid = s4s.grid("logsnr", process, nfe)
    told = grid[:-1] * torch.tensor([1.0, *[0.93] * (nfe - 1)], dtype=torch.float64)
    return s4s.solver("ipndm", grid, sigma_eval=told, order=2)


def bundle(process: Any) -> s4s.Bundle:
    return s4s.Bundle({nfe: solver(process, nfe) for nfe in (3, 4, 6)})


def recorded(scheduler: S4SScheduler) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What the network said, of which sample, and what came of it, at every step."""
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    inner = scheduler.step

    @functools.wraps(inner)
    def step(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **options: Any) -> Any:
        made = inner(model_output, timestep, sample, *args, **options)
        steps.append((model_output.clone(), sample.clone(), (made[0] if isinstance(made, tuple) else made.prev_sample)))
        return made

    scheduler.step = step
    return steps


def times_seen(net: Any) -> list[float]:
    """The times a network is called at."""
    seen: list[float] = []

    def record(_: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        t = options["timestep"] if "timestep" in options else args[1]
        seen.append(float(torch.as_tensor(t).flatten()[0]))

    net.register_forward_pre_hook(record, with_kwargs=True)
    return seen


def require_equal(case: Case, made: s4s.Solver, steps: list[tuple[Tensor, Tensor, Tensor]]) -> None:
    """``s4s.sample`` with what the network said: the same states on the way, and the same result."""
    process, to_x0 = case.process, PREDICTIONS[case.prediction]
    answers = iter(steps)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        output, sample, _ = next(answers)
        alpha, noise = (f(process.time(sigma)).float() for f in (process.alpha, process.sigma))
        close(alpha * x, sample)
        output = output[:, : sample.shape[1]] if output.ndim == 4 else output
        return to_x0(alpha * x, output, alpha, noise)

    x_T = process.to_edm(steps[0][1], made.sigma_eval[0])
    close(s4s.sample(made, denoise, x_T), steps[-1][2])
    assert next(answers, None) is None


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("make", [solver, decoupled])
def test_pipelines_give_what_sample_gives(name: str, make: Callable[..., s4s.Solver]) -> None:
    case = TINY[name]()
    made = make(case.process)
    case.pipe.scheduler = S4SScheduler.from_solver(made, case.process, case.prediction)
    steps, told = recorded(case.pipe.scheduler), times_seen(case.net)
    out = case(4)
    assert len(steps) == 4
    require_equal(case, made, steps)
    own = case.process.model_time(made.sigma_eval)
    own = own if case.prediction != "flow" else 1000 * own if case.told is None else case.told(own)
    once = told[:: len(told) // 4]  # some call their network once for each half of the guidance
    torch.testing.assert_close(torch.tensor(once, dtype=torch.float64), own, rtol=1e-6, atol=1e-4)
    if case.call["output_type"] == "latent":
        close(torch.as_tensor(out[0]), steps[-1][2])


def test_stable_diffusion(stable: tuple[Path, Any]) -> None:  # noqa: F811
    pipe = copy.copy(stable[1])
    case = Case(pipe, pipe.unet, vp(SD_BETAS), latents=(2, 4, 8, 8),
                call={"prompt": ["a", "b"], "guidance_scale": 3.0, "output_type": "latent"})  # fmt: skip
    made = decoupled(case.process)
    before = pipe.scheduler
    try:
        pipe.scheduler = S4SScheduler.from_solver(made, case.process, "epsilon")
        steps = recorded(pipe.scheduler)
        case(4)
    finally:
        pipe.scheduler = before
    require_equal(case, made, steps)


def test_a_curve_gives_any_number_of_steps() -> None:
    process = vp()
    curve = s4s.curve(lambda nfe: solver(process, nfe))
    scheduler = S4SScheduler.from_solver(curve, process, "eps")
    for nfe in (3, 7, 20):
        scheduler.set_timesteps(nfe)
        assert len(scheduler.timesteps) == nfe and torch.equal(scheduler.bundle[nfe].weight, curve.at(nfe).weight)
    with pytest.raises(s4s.Error, match="no solver for num_inference_steps=21 here, only for 3, 4"):
        scheduler.set_timesteps(21)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_predictions_against_a_denoiser_of_the_network(prediction: str) -> None:
    """All the way: our own process and sample against diffusers' pipeline."""
    net = unet(in_channels=3, out_channels=3)
    process = vp()
    made = solver(process, 5)
    pipe = diffusers.DDPMPipeline(net, S4SScheduler.from_solver(made, process, prediction))
    pipe.set_progress_bar_config(disable=True)
    steps = recorded(pipe.scheduler)
    pipe(batch_size=2, num_inference_steps=5, output_type="np")
    denoise = process.denoiser(lambda x, t: net(x, t).sample, prediction)
    close(s4s.sample(made, denoise, process.to_edm(steps[0][1], made.sigma[0])), steps[-1][2])


def test_a_bundle_picks_by_the_number_of_steps() -> None:
    for name in ("SDXL", "Flux"):
        case = TINY[name]()
        solvers = bundle(case.process)
        scheduler = S4SScheduler.from_solver(solvers, case.process, case.prediction)
        for nfe in (6, 3):
            case.pipe.scheduler = copy.deepcopy(scheduler)
            steps = recorded(case.pipe.scheduler)
            case(nfe)
            require_equal(case, solvers[nfe], steps)
        with pytest.raises(s4s.Error, match="no solver for num_inference_steps=5 here, only for 3, 4, 6"):
            case(5)


# --- half precision ---


def loop(scheduler: S4SScheduler, eps: Callable[[Tensor, Tensor], Tensor], z: Tensor) -> Tensor:
    scheduler.set_timesteps(6)
    x = z
    for t in scheduler.timesteps:
        x = scheduler.step(eps(x, t).to(z.dtype), t, x).prev_sample
    return x


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_costs_little_more_than_rounding_the_result(dtype: torch.dtype) -> None:
    process = vp()
    scheduler = S4SScheduler.from_solver(solver(process, 6), process, "eps")
    net = unet(in_channels=3, out_channels=3)
    z = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)

    def eps(x: Tensor, t: Tensor) -> Tensor:
        return net(x.float(), t).sample

    exact = loop(scheduler, eps, z.float())
    found = loop(scheduler, eps, z)
    assert found.dtype == dtype
    assert (found.float() - exact).norm() < 2 * (exact.to(dtype).float() - exact).norm()


@pytest.mark.parametrize("name", ["SDXL", "SD3", "Flux", "PixArt"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_pipelines(name: str, dtype: torch.dtype) -> None:
    """What the pipeline ends with, and ``s4s.sample`` in double precision with what its network said."""
    case = TINY[name]()
    made, process, to_x0 = decoupled(case.process, 6), case.process, PREDICTIONS[case.prediction]
    case.net.to(dtype)
    case.call = {key: value.to(dtype) if isinstance(value, Tensor) else value for key, value in case.call.items()}
    case.pipe.scheduler = S4SScheduler.from_solver(made, process, case.prediction)
    steps = recorded(case.pipe.scheduler)
    case(6)
    answers = iter(steps)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        alpha, noise = process.alpha(process.time(sigma)), process.sigma(process.time(sigma))
        output = next(answers)[0].double()
        return to_x0(alpha * x, output[:, : x.shape[1]] if output.ndim == 4 else output, alpha, noise)

    exact = s4s.sample(made, denoise, process.to_edm(steps[0][1].double(), made.sigma_eval[0]))
    found = steps[-1][2]
    assert found.dtype == dtype
    assert (found.double() - exact).norm() < 2 * (exact.to(dtype).double() - exact).norm()


# --- files ---


def test_saved_and_loaded_it_is_equal_to_the_bit(tmp_path: Path) -> None:
    process = vp()
    made = S4SScheduler.from_solver(bundle(process), process, "eps", card={"model": "tiny", "guidance": 3.0})
    made.save_pretrained(tmp_path / "scheduler")
    code = (
        "import sys, torch\n"
        "from s4s.integrations.diffusers import S4SScheduler\n"
        "scheduler = S4SScheduler.from_pretrained(sys.argv[1])\n"
        "scheduler.set_timesteps(4)\n"
        "x = torch.load(sys.argv[2])\n"
        "for t in scheduler.timesteps: x = scheduler.step(x.sin(), t, x)[0]\n"
        "torch.save(x, sys.argv[2])\n"
        "print(scheduler.config.card)\n"
    )
    z = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.save(z, tmp_path / "x.pt")
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "scheduler"), str(tmp_path / "x.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    made.set_timesteps(4)
    x = z
    for t in made.timesteps:
        x = made.step(x.sin(), t, x)[0]
    assert torch.equal(torch.load(tmp_path / "x.pt"), x)
    assert "'model': 'tiny'" in done.stdout and "'nfe': [3, 4, 6]" in done.stdout


def test_the_config_is_the_whole_of_it(tmp_path: Path) -> None:
    process = vp()
    made = S4SScheduler.from_solver(bundle(process), process, "eps")
    made.save_pretrained(tmp_path)
    again = S4SScheduler.from_pretrained(tmp_path)
    assert again._plans == made._plans and again.config.trained_betas == made.config.trained_betas
    for nfe, each in bundle(process).items():
        assert torch.equal(again.bundle[nfe].weight, each.weight) and again.bundle[nfe].provenance == each.provenance
    again.config["solvers"].clear()
    again.set_timesteps(4)
    assert len(again.timesteps) == 4, "its numbers are its own"
    text = (tmp_path / "scheduler_config.json").read_text()
    assert json.loads(text)["_class_name"] == "S4SScheduler"


def test_a_saved_pipeline_loads_with_it_and_in_our_own_loader(tmp_path: Path) -> None:
    from s4s.models import load_model

    process = vp()
    net = unet(in_channels=3, out_channels=3)
    made = S4SScheduler.from_solver(solver(process), process, "eps")
    diffusers.DDPMPipeline(net, made).save_pretrained(tmp_path)
    pipe = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    assert isinstance(pipe.scheduler, S4SScheduler) and pipe.scheduler._plans == made._plans
    model = load_model({"type": "diffusers"}, tmp_path)
    assert model.facts["prediction"] == "eps"
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    sigma = process.level(0.4)
    close(model.denoiser(None)(x, sigma), process.denoiser(lambda x, t: net(x, t).sample)(x, sigma))


def test_a_flow_and_a_process_without_a_table_in_our_loader(tmp_path: Path) -> None:
    from s4s.models.scheduler import schedule

    flow = S4SScheduler.from_solver(solver(s4s.Flow()), s4s.Flow(), "flow").config
    process, prediction, scale = schedule("S4SScheduler", flow)
    assert isinstance(process, s4s.Flow) and (prediction, scale) == ("flow", 1000.0)
    other = S4SScheduler.from_solver(solver(s4s.VPLinear()), s4s.VPLinear(), "eps").config
    with pytest.raises(s4s.Error, match="S4SScheduler: its solver's process has no table of betas"):
        schedule("S4SScheduler", other)


# --- training tools, cards ---


@pytest.mark.parametrize("prediction", ["eps", "flow"])
def test_add_noise(prediction: str) -> None:
    process = vp() if prediction == "eps" else s4s.Flow()
    made = S4SScheduler.from_solver(solver(process), process, prediction)
    x, noise = torch.randn(2, 3, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    steps = torch.tensor([10, 500, 900])
    if prediction == "eps":
        close(made.add_noise(x, noise, steps), diffusers.DDPMScheduler().add_noise(x, noise, steps))
    else:
        share = (steps / 1000).reshape(3, 1, 1, 1)
        close(made.add_noise(x, noise, steps), (1 - share) * x + share * noise)
        close(made.scale_noise(x, steps, noise), (1 - share) * x + share * noise)
    with pytest.raises(s4s.Error, match="add_noise needs a table of training steps"):
        S4SScheduler.from_solver(solver(s4s.VPLinear()), s4s.VPLinear(), "eps").add_noise(x, noise, steps)
    for wrong in (-1, 1500, math.nan):
        with pytest.raises(s4s.Error, match=f"training steps are from 0 to 1000, got {wrong} to {wrong}"):
            made.add_noise(x, noise, torch.tensor([wrong]))


@pytest.mark.parametrize("process", [s4s.Cosine(), s4s.Path(lambda t: 1 - t, lambda t: t, t_max=0.999, t_min=1e-3)])
def test_a_network_of_a_velocity_need_not_be_of_a_flow(process: s4s.Process) -> None:
    """Another path, or the time in [0, 1]: their states and steps are not those of flow pipelines."""
    from s4s.models.scheduler import schedule

    made = S4SScheduler.from_solver(solver(process), process, "flow")
    with pytest.raises(s4s.Error, match="add_noise needs a table"):
        made.add_noise(torch.ones(1, 3), torch.ones(1, 3), torch.tensor([0.5]))
    with pytest.raises(s4s.Error, match="its solver's process has no table of betas"):
        schedule("S4SScheduler", made.config)


@pytest.mark.parametrize(("name", "kind"), [
    ("SD3", "StableDiffusion3Img2ImgPipeline"), ("Flux", "FluxImg2ImgPipeline"),
])  # fmt: skip
def test_image_to_image_of_flows_at_full_strength(name: str, kind: str) -> None:
    case = TINY[name]()
    made = solver(case.process)
    case.pipe = getattr(diffusers, kind)(**case.pipe.components)
    case.pipe.set_progress_bar_config(disable=True)
    case.pipe.scheduler = S4SScheduler.from_solver(made, case.process, case.prediction)
    steps = recorded(case.pipe.scheduler)
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    out = case.pipe(image=image, strength=1.0, num_inference_steps=4, **case.call)[0]
    require_equal(case, made, steps)
    close(out, steps[-1][2])


def test_install_says_what_does_not_match() -> None:
    process = vp(SD_BETAS)
    made = S4SScheduler.from_solver(solver(process), process, "v", card={"guidance": 7.5, "shift": 3.0})
    pipe = diffusers.DDPMPipeline(unet(in_channels=3, out_channels=3), ddim())
    with pytest.warns(Notice) as said:
        assert made.install(pipe, guidance_scale=2.0) is pipe and pipe.scheduler is made
    lines = sorted(str(each.message) for each in said)
    assert lines[0] == "guidance: the solver is for 7.5, the pipeline has 2.0"
    assert (
        lines[1].startswith("last alphas_cumprod: the solver is for 0.0046") and lines[1].endswith("has 4.03") is False
    )
    assert lines[2] == "prediction_type: the solver is for v_prediction, the pipeline has epsilon" and len(lines) == 3
    flow = S4SScheduler.from_solver(solver(s4s.Flow()), s4s.Flow(), "flow", card={"shift": 3.0})
    with pytest.warns(Notice, match="shift: the solver is for 3.0, the pipeline has 1.0"):
        flow.install(Pipe(diffusers.FlowMatchEulerDiscreteScheduler()))
    with pytest.warns(Notice, match="prediction_type: the solver is for v_prediction, the pipeline has flow_pred"):
        made.install(Pipe(diffusers.FlowMatchEulerDiscreteScheduler()))
    with pytest.warns(Notice, match=r"alpha \+ sigma: the solver is for 1\.255, the pipeline has 1\.0"):
        path = S4SScheduler.from_solver(solver(s4s.Cosine()), s4s.Cosine(), "flow")
        path.install(Pipe(diffusers.FlowMatchHeunDiscreteScheduler()))
    with pytest.warns(Notice, match=r"last alphas_cumprod: the solver is for 4\.318\d*e-05, the pipeline has 0\.00466"):
        free = S4SScheduler.from_solver(solver(s4s.VPLinear()), s4s.VPLinear(), "eps")
        free.install(Pipe(ddim(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        flow.install(Pipe(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)), guidance_scale=3.5)
        for kind in (diffusers.UniPCMultistepScheduler, diffusers.DPMSolverMultistepScheduler):  # of Wan and Sana
            flow.install(Pipe(kind(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)))
        right = S4SScheduler.from_solver(solver(vp()), vp(), "eps", card={"guidance": 2.0})
        right.install(Pipe(ddim()), guidance_scale=2.2)


def test_install_says_where_the_network_is_told_other_times() -> None:
    """A process of one's own has times from 0 to 1, where pipelines count training steps."""
    straight = s4s.Path(lambda t: 1 - t, lambda t: t, t_max=0.999, t_min=0.001)
    flow = diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0)
    for process, prediction, present in (
        (straight, "flow", diffusers.FlowMatchEulerDiscreteScheduler()), (straight, "flow", flow),
        (s4s.VPLinear(), "eps", ddim()),
    ):  # fmt: skip
        made = S4SScheduler.from_solver(solver(process), process, prediction)
        with pytest.warns(Notice, match=r"first time: the solver is for (0\.999|1\.0), the pipeline has 99"):
            made.install(Pipe(present))


def test_install_says_another_shift_of_schedulers_that_are_of_flows_by_their_configuration() -> None:
    flow = S4SScheduler.from_solver(solver(s4s.Flow()), s4s.Flow(), "flow", card={"shift": 3.0})
    with pytest.warns(Notice) as said:
        flow.install(Pipe(diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)))  # fmt: skip
    assert [str(each.message) for each in said] == ["shift: the solver is for 3.0, the pipeline has 5.0"]


def test_a_flow_pipeline_whose_own_shift_is_another() -> None:
    """Flux works it out from the resolution: exp(mu)."""
    case = TINY["Flux"]()
    for shift, said in ((3.0, True), (1.6, False)):
        scheduler = S4SScheduler.from_solver(solver(case.process), case.process, "flow", card={"shift": shift})
        case.pipe.scheduler = scheduler
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always", Notice)
            case(4)
        lines = [str(each.message) for each in found if issubclass(each.category, Notice)]
        assert lines == (["shift of this resolution: the solver is for 3.0, the pipeline has 1.5831"] if said else [])


@pytest.mark.parametrize(("kind", "shift"), [("exponential", 4.508), ("linear", 1.5059)])
def test_a_pipeline_works_its_shift_out_as_before(kind: str, shift: float) -> None:
    """From its scheduler's config, which for Qwen-Image and others differs from what pipelines take without one.

    Here from 16 places: mu is 1.5 + 16 / 4096 * 1.5.
    """
    case = TINY["Flux"]()
    theirs = {
        "base_shift": 1.5,
        "max_shift": 3.0,
        "base_image_seq_len": 0,
        "max_image_seq_len": 4096,
        "time_shift_type": kind,
    }
    case.pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **theirs)
    S4SScheduler.from_solver(solver(case.process), case.process, "flow", card={"shift": 9.0}).install(case.pipe)
    assert theirs.items() <= S4SScheduler.from_config(case.pipe.scheduler.config).config.items()
    with pytest.warns(Notice, match=f"shift of this resolution: the solver is for 9.0, the pipeline has {shift}"):
        case(4)


def test_numbers_of_numpy_in_a_record() -> None:
    made = solver(vp()).replace(provenance={"loss": np.float32(0.5)})
    assert S4SScheduler.from_solver(made, vp(), "eps").bundle[made.nfe].provenance == {"loss": 0.5}


def test_the_card_of_a_bundle_is_kept() -> None:
    process = vp()
    fitted = s4s.Bundle(bundle(process).solvers, {"card": {"model": "a", "fitted by": "b"}, "other": 1})
    made = S4SScheduler.from_solver(fitted, process, "eps", card={"model": "c"})
    assert made.config.card == {"model": "c", "fitted by": "b", "nfe": [3, 4, 6], "prediction": "eps"}
    assert S4SScheduler.from_solver(fitted[4], process, "eps").config.card == {"nfe": [4], "prediction": "eps"}


class Pipe:
    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
