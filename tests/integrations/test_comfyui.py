"""The nodes against a stand-in for ComfyUI: one test a rule of it, and what is refused."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import math
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import comfy_host
import pytest
import torch
from comfy_host import ALPHAS_CUMPROD, KSAMPLER, Discrete, FlowTimes, Model, network
from torch import Tensor

import s4s
from s4s.integrations.comfyui.sampler import sample_comfyui, sigmas_of
from s4s.integrations.guidance import comfyui_function

ROOT = Path(__file__).parents[2]
VP = s4s.VPDiscrete(ALPHAS_CUMPROD, rounded=True)
FLOW = s4s.Flow()
NOISE = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
HOSTS = {"eps": (lambda: Discrete("eps"), VP), "v": (lambda: Discrete("v"), VP), "flow": (FlowTimes, FLOW)}


def solver(process: Any, nfe: int = 5, finish: bool = True) -> s4s.Solver:
    made = s4s.solver("unipc", s4s.grid("logsnr", process, nfe), order=3)
    return made.finish() if finish else made


def decoupled(process: Any) -> s4s.Solver:
    grid = s4s.grid("logsnr", process, 4)
    told = grid[:-1] * torch.tensor([1, 0.93, 0.95, 0.97], dtype=torch.float64)
    return s4s.solver("ipndm", grid, sigma_eval=told, order=2).finish()


def run(made: s4s.Solver, model: Model, noise: Tensor = NOISE, **options: Any) -> Tensor:
    sampler = KSAMPLER(partial(sample_comfyui, solver=options.pop("solver", made)))
    sigmas = options.pop("sigmas", None)
    sigmas = sigmas_of(made, model.model_sampling) if sigmas is None else sigmas
    return comfy_host.sample(sampler, sigmas, model, noise, **options)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-5 * b.abs().max().item(), rtol=2e-5, check_dtype=False)


# --- the rules ---


@pytest.mark.parametrize("kind", HOSTS)
@pytest.mark.parametrize("make", [solver, decoupled])
def test_eps_v_and_flow_models_give_what_sample_gives(kind: str, make: Any) -> None:
    """The network, the process of a fit and ``s4s.sample`` on one side; the host's way on the other."""
    sampling, process = HOSTS[kind]
    made = make(process)
    thousand = lambda x, t: network(x, 1000 * t if kind == "flow" else t)
    expected = s4s.sample(made, process.denoiser(thousand, kind), made.x_T(NOISE))
    close(run(made, Model(sampling())), expected)


@pytest.mark.parametrize("kind", ["eps", "v"])
def test_times_are_rounded_to_training_steps_as_the_process_says(kind: str) -> None:
    made, model = solver(VP), Model(Discrete(kind))
    run(made, model)
    told = torch.stack([t[0] for t in model.told])
    assert torch.equal(told.double(), VP.model_time(made.sigma_eval))
    exact = s4s.VPDiscrete(ALPHAS_CUMPROD).model_time(made.sigma_eval)
    assert (told - exact).abs().max() > 0.05 and (told - exact).abs().max() <= 0.51, "the rule can be seen here"


def test_times_of_a_flow_are_not() -> None:
    made, model = solver(FLOW), Model(FlowTimes())
    run(made, model)
    told = torch.stack([t[0] for t in model.told]).double()
    torch.testing.assert_close(told, 1000 * FLOW.time(made.sigma_eval), rtol=1e-6, atol=1e-6)


def test_the_first_sigma_is_the_model_s_own_float() -> None:
    """Which decides the scale of the noise: 1e-5 below, it would be another."""
    for off in (1 - 2e-5, 1.0, 1 + 5e-4):
        made = solver(VP)
        made = made.replace(sigma=made.sigma * torch.tensor([off] + [1.0] * 6))
        assert sigmas_of(made, Discrete())[0] == Discrete().sigma_max
    late = s4s.solver("ddim", [14.0, 3.0, 0.03]).finish()
    assert sigmas_of(late, Discrete())[0] == 14.0


@pytest.mark.parametrize(("first", "scale"), [
    (float(Discrete().sigma_max), math.sqrt(1 + float(Discrete().sigma_max) ** 2)), (14.0, 14.0), (14.7, 14.7336),
])  # fmt: skip
def test_the_noise_has_the_scale_of_the_fit_whatever_the_host_makes_it(first: float, scale: float) -> None:
    """The host's is sqrt(1 + sigma^2) at the model's largest sigma and above it, sigma below."""
    seen: list[Tensor] = []
    for start in (None, s4s.Start(0.0, scale), s4s.Start(0.5, 3.0)):
        made = s4s.solver("ddim", [first, 3.0, 0.03]).finish().replace(noise=start)
        model = Model(Discrete())
        run(made, model)
        seen.append(model.inputs[0] * math.sqrt(1 + first**2))
        close(seen[-1], made.x_T(NOISE))
    close(seen[1], scale * NOISE)


def test_a_flow_that_starts_late_says_what_it_starts_from() -> None:
    """``teacher_set(scale=10)`` of a flow with t_max = 0.9: the state is standard normal there."""
    model = Model(FlowTimes())
    late = s4s.solver("ddim", s4s.grid("logsnr", s4s.Flow(t_max=0.9), 4)).finish()
    run(late.replace(noise=s4s.Start(0.0, 10.0)), model)
    close(model.inputs[0], NOISE)
    run(solver(FLOW), model)
    close(model.inputs[5], 0.999 * NOISE)


def test_the_callback_has_what_previews_need() -> None:
    for kind in HOSTS:
        made, model = solver(HOSTS[kind][1]), Model(HOSTS[kind][0]())
        seen: list[tuple[int, Tensor, Tensor, int]] = []
        found = run(made, model, callback=lambda *step: seen.append(step))  # noqa: B023
        assert [(i, total) for i, _, _, total in seen] == [(i, 6) for i in range(6)]
        close(seen[-1][1], found)  # a finished solver's result is its last prediction
        first = (
            seen[0][2] if kind == "flow" else seen[0][2] / (1 + sigmas_of(made, model.model_sampling)[0] ** 2).sqrt()
        )
        close(first, model.inputs[0])
        assert torch.equal(run(made, model), found), "without a callback too"


def test_a_latent_is_mixed_in_as_the_host_does() -> None:
    latent = torch.ones_like(NOISE)
    made, model = solver(VP), Model(Discrete())
    run(made, model, latent=latent)
    first = float(Discrete().sigma_max)
    close(model.inputs[0] * math.sqrt(1 + first**2), made.x_T(NOISE + comfy_host.LATENT_SCALE * latent / 14.648812))


# --- refused in one line ---


def flow_at(t: float) -> s4s.Solver:
    return s4s.solver("ddim", [t / (1 - t), 1.0, 0.0])


REFUSED: dict[str, tuple[Any, str]] = {
    "an end above 0": (
        lambda: run(solver(VP, finish=False), Model(Discrete())),
        "unipc3 ends at level 0.02917, and ComfyUI would leave that noise in the latent: finish it",
    ),
    "sigmas of a scheduler": (
        lambda: run(solver(VP), Model(Discrete()), sigmas=torch.tensor([14.6, 7, 3, 1, 0.5, 0.1, 0])),
        "these 7 SIGMAS are not the solver's own 7, and its weights belong to its levels: take SIGMAS from the node",
    ),
    "denoise below 1": (
        lambda: run(solver(VP), Model(Discrete()), sigmas=sigmas_of(solver(VP), Discrete())[-4:]),
        r"these 4 SIGMAS are not the solver's own 7, .* whole \(no denoise below 1\)",
    ),
    "the sampler of another solver": (
        lambda: run(solver(VP), Model(Discrete()), solver=solver(VP, 4)), "these 7 SIGMAS are not the solver's own 6"
    ),
    "the sigmas of another kind of model": (
        lambda: run(solver(FLOW), Model(FlowTimes()), sigmas=solver(FLOW).sigma.float()), "are not the solver's own"
    ),
    "a solver of another model": (
        lambda: run(solver(s4s.EDM()), Model(Discrete())),
        r"unipc3\+finish asks for levels 80 to 0.002, the model has 14.6146 to 0.0291672: it was fitted for another",
    ),
    "guidance of its own": (
        lambda: run(solver(VP).replace(null=torch.zeros_like(solver(VP).weight)), Model(Discrete())),
        "has guidance of its own, and ComfyUI applies its own: s4s.merge_guidance"
    ),
    "a flow from time 1": (lambda: run(flow_at(1 - 1e-12), Model(FlowTimes())), "the time 1 of a flow, where there"),
    "a solver of eps in a flow": (
        lambda: run(solver(VP), Model(FlowTimes())),
        r"starts at level 14.61, where noise alone has a standard deviation of 0.936 and not 1: it was fitted for",
    ),
    "a start where the picture shows": (
        lambda: run(s4s.solver("ddim", [5.0, 1.0, 0.03]).finish(), Model(Discrete())), "deviation of 0.981 and not 1"
    ),
    "no noise": (
        lambda: run(solver(VP), Model(Discrete()), torch.zeros_like(NOISE), latent=NOISE),
        "the latent's noise is 0.185, and sigma 14.61 needs 14.65: a fitted solver starts from noise",
    ),
    "a mask": (
        lambda: run(solver(VP), Model(Discrete()), mask=torch.ones_like(NOISE)),
        "the latent has a noise mask: what it keeps is put back before every evaluation",
    ),
    "a bundle": (
        lambda: sigmas_of(s4s.Bundle({6: solver(VP)}), Discrete()), "one solver is needed, got a Bundle"  # type: ignore[arg-type]
    ),
    "a model of another kind": (lambda: run(solver(VP), Model(Still())), r"of another kind \(Still\); a fitted solver"),
    "a network that fails": (
        lambda: run(solver(VP), Model(Broken())), "the denoiser returned NaN or infinity at step 0 of 6"
    ),
}  # fmt: skip


class Still(Discrete):
    """A model that starts from the picture."""

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor, max_denoise: bool = False) -> Tensor:
        return latent


class Broken(Discrete):
    def denoised(self, sigma: Tensor, out: Tensor, x: Tensor) -> Tensor:
        return out * math.nan


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(s4s.Error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# --- the nodes ---


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """By their ids, as ComfyUI gets them from the folder copied into ``custom_nodes``; two files lie in its models."""
    comfy_host.install(tmp_path / "models", monkeypatch)
    (tmp_path / "models/s4s").mkdir(parents=True)
    fitted = s4s.Bundle({n: solver(VP, n, finish=False) for n in (4, 6)}, {"card": {"model": "a", "fid": {"4": 3.0}}})
    fitted.save(tmp_path / "models/s4s/vp.json")
    solver(FLOW, 4).save(tmp_path / "models/s4s/flow.json")
    (tmp_path / "models/s4s/notes.txt").touch()
    place = tmp_path / "custom_nodes" / "s4s-nodes"
    shutil.copytree(ROOT / "s4s/integrations/comfyui", place)
    spec = importlib.util.spec_from_file_location("s4s_nodes", place / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not hasattr(module, "NODE_CLASS_MAPPINGS"), "its V3 nodes would vanish"
    extension = asyncio.run(module.comfy_entrypoint())
    return {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}


def kinds(sockets: list[Any]) -> list[tuple[str, ...]]:
    return [(each.kind, *each.names) for each in sockets]


def test_what_the_nodes_take_and_give(nodes: dict[str, Any]) -> None:
    load, pick, sample = (nodes[name].define_schema() for name in ("S4SLoadSolver", "S4SPickSolver", "S4SSampler"))
    assert kinds(load.inputs) == [("COMBO", "file")] and load.inputs[0].options["options"] == ["flow.json", "vp.json"]
    assert kinds(load.outputs) == [("S4S_SOLVER",), ("STRING",)]
    assert kinds(pick.inputs) == [("S4S_SOLVER", "solver"), ("INT", "steps")] and kinds(pick.outputs) == [
        ("S4S_SOLVER",)
    ]
    assert kinds(sample.inputs) == [("MODEL", "model"), ("S4S_SOLVER", "solver"), ("COMBO", "finish")]
    assert kinds(sample.outputs) == [("SAMPLER",), ("SIGMAS",)]


@pytest.mark.parametrize(("finish", "calls"), [("one more evaluation", 5), ("no evaluation", 4)])
def test_from_a_file_to_a_latent(nodes: dict[str, Any], finish: str, calls: int) -> None:
    loaded, about = nodes["S4SLoadSolver"].execute(file="vp.json").result
    assert about.startswith("fid: 4: 3.0\nmodel: a\n\nunipc3: 4 evaluations") and "unipc3: 6 evaluations" in about
    (picked,) = nodes["S4SPickSolver"].execute(solver=loaded, steps=4).result
    model = Model(Discrete())
    sampler, sigmas = nodes["S4SSampler"].execute(model=model, solver=picked, finish=finish).result
    assert sigmas.dtype == torch.float32 and len(sigmas) == calls + 1 and sigmas[-1] == 0
    found = comfy_host.sample(sampler, sigmas, model, NOISE)
    assert len(model.told) == calls
    made = solver(VP, 4, finish=False).finish(evaluate=calls == 5)
    close(found, s4s.sample(made, VP.denoiser(network), made.x_T(NOISE)))


@pytest.mark.parametrize("finish", ["one more evaluation", "no evaluation"])
def test_a_scale_a_level_on_the_way_from_a_file_to_a_latent(nodes: dict[str, Any], tmp_path: Path, finish: str) -> None:
    """As the guide has it: the function is made of the fitted solver, and the node finishes it."""
    plain = solver(VP, 4, finish=False)
    scales = torch.tensor([3.0, 1.5, 4.0, 2.0], dtype=torch.float64)
    own = plain.replace(weight=plain.weight * scales, null=plain.weight * (1 - scales))
    merged, found = s4s.merge_guidance(own)
    merged.save(tmp_path / "models/s4s/merged.json")
    loaded, _ = nodes["S4SLoadSolver"].execute(file="merged.json").result
    model = Guided(comfyui_function(merged, found))
    sampler, sigmas = nodes["S4SSampler"].execute(model=model, solver=loaded, finish=finish).result
    made = own.finish(evaluate=finish == "one more evaluation")
    both = s4s.guided(VP.denoiser(network), lambda x, sigma: torch.tanh(x) / (1 + sigma), 2.0)
    close(comfy_host.sample(sampler, sigmas, model, NOISE), s4s.sample(made, both, made.x_T(NOISE)))


class Guided(Model):
    """A model whose outputs with and without the condition a function mixes: input minus each, as ComfyUI has it."""

    def __init__(self, function: Any) -> None:
        super().__init__(Discrete())
        self.function = function

    def apply(self, x: Tensor, sigma: Tensor) -> Tensor:
        cond, uncond = super().apply(x, sigma), torch.tanh(x) / (1 + sigma.reshape(-1, 1, 1, 1))
        args = {"cond": x - cond, "uncond": x - uncond, "sigma": sigma, "input": x, "model": self}
        return x - self.function(args)


def test_a_solver_that_is_not_there_and_one_of_several(nodes: dict[str, Any], tmp_path: Path) -> None:
    load, pick, sample = (nodes[name].execute for name in ("S4SLoadSolver", "S4SPickSolver", "S4SSampler"))
    with pytest.raises(s4s.Error, match=r"no gone\.json in ComfyUI's models/s4s; it holds flow\.json, vp\.json"):
        load(file="gone.json")
    bundle = load(file="vp.json").result[0]
    with pytest.raises(s4s.Error, match="no solver makes 5 evaluations here, only 4, 6"):
        pick(solver=bundle, steps=5)
    with pytest.raises(s4s.Error, match="the bundle holds solvers of 4, 6 steps: put the node that picks one before"):
        sample(model=Model(Discrete()), solver=bundle, finish="one more evaluation")
    flow = load(file="flow.json").result[0]
    with pytest.raises(s4s.Error, match=r"asks for levels 999 to 0\.001.*, the model has 14\.61"):
        sample(model=Model(Discrete()), solver=flow, finish="one more evaluation")
    before = nodes["S4SLoadSolver"].fingerprint_inputs(file="vp.json")
    solver(VP, 5).save(tmp_path / "models/s4s/vp.json")
    assert nodes["S4SLoadSolver"].fingerprint_inputs(file="vp.json") != before


def test_a_curve_gives_any_number_of_steps(nodes: dict[str, Any], tmp_path: Path) -> None:
    made = s4s.curve(lambda nfe: s4s.solver("ipndm", s4s.grid("logsnr", VP, nfe), order=2))
    made.save(tmp_path / "models/s4s/curve.json")
    loaded, about = nodes["S4SLoadSolver"].execute(file="curve.json").result
    assert about.startswith("ipndm2-curve: 3 to 20 evaluations; what it adds to ipndm2")
    (picked,) = nodes["S4SPickSolver"].execute(solver=loaded, steps=7).result
    model = Model(Discrete())
    sampler, sigmas = nodes["S4SSampler"].execute(model=model, solver=picked, finish="no evaluation").result
    comfy_host.sample(sampler, sigmas, model, NOISE)
    assert len(model.told) == 7


def test_the_workflow_of_the_guide_wires_these_nodes(nodes: dict[str, Any]) -> None:
    workflow = json.loads((ROOT / "docs/comfyui-workflow.json").read_text())
    own = {each["class_type"]: each["inputs"] for each in workflow.values() if each["class_type"] in nodes}
    assert {*own} == {*nodes}
    for name, inputs in own.items():
        assert [*inputs] == [socket.names[0] for socket in nodes[name].define_schema().inputs]
    assert own["S4SSampler"]["finish"] in nodes["S4SSampler"].define_schema().inputs[2].options["options"]
    for each in workflow.values():
        for place, output in (value for value in each["inputs"].values() if isinstance(value, list)):
            kind = workflow[place]["class_type"]
            assert kind not in nodes or output < len(nodes[kind].define_schema().outputs)


def test_the_nodes_need_torch_alone() -> None:
    """What ComfyUI has anyway: torch, numpy and safetensors. Nothing of the pipeline is imported."""
    code = (
        "import sys, asyncio, pathlib, pytest\n"
        "sys.path.insert(0, 'tests/shared')\n"
        "import comfy_host\n"
        "comfy_host.install(pathlib.Path('nowhere'), pytest.MonkeyPatch())\n"
        "known = {name.split('.')[0] for name in sys.modules} | {*sys.stdlib_module_names}\n"
        "from s4s.integrations.comfyui import comfy_entrypoint\n"
        "asyncio.run(comfy_entrypoint())\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} - known))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout in ("['s4s', 'safetensors']\n", "['s4s']\n")
