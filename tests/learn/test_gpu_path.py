"""What makes a GPU wait is looked for without one: fake tensors say they are on it, and every operation is seen."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import s4s
from s4s.models.ddpmpp import UNetConfig
from s4s.models.edm import EDMNetwork
from s4s.models.model import RUN, Guidance, make_denoiser, running

CONFIG = UNetConfig(8, label_dim=4, model_channels=8, channel_mult=(1, 2), blocks=1, attention=(4,))
PROCESSES: dict[str, Callable[[], s4s.Process]] = {
    "edm": s4s.EDM,
    "vp": s4s.VPLinear,
    "flow": s4s.Flow,
    "discrete": lambda: s4s.VPDiscrete(torch.linspace(0.99, 0.01, 20, dtype=torch.float64)),
}


class Waits(TorchDispatchMode):
    """Records every operation that makes the host wait for the device or the device for the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero"):
            self.found.append(name)
        if name in ("_to_copy", "copy_", "_pin_memory"):
            places = {a.device.type for a in (*args, made) if isinstance(a, Tensor)}
            self.found += [name] if len(places) > 1 else []
        return made


def waits(solver: s4s.Solver, denoiser: Any, condition: Tensor | None = None) -> list[str]:
    """Of one run of ``sample`` on a pretended GPU; reading a number there would raise."""
    with FakeTensorMode(allow_non_fake_inputs=True), Waits() as seen:
        x_T = torch.empty(2, 3, 8, 8, device="cuda")
        x0 = s4s.sample(solver, denoiser(condition), x_T, check=False)
    assert x0.device.type == "cuda" and x0.shape == x_T.shape
    return seen.found


def test_the_counter_sees_what_it_should() -> None:
    with FakeTensorMode(), Waits() as seen:
        x = torch.empty(3, device="cuda")
        x.cpu(), torch.empty(3).to("cuda"), x.double()
        assert seen.found == ["_to_copy", "_to_copy"]
        with pytest.raises(Exception, match="_local_scalar_dense"):
            x[0].item()


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", PROCESSES)
def test_no_wait_inside_the_loop(name: str, guided: bool) -> None:
    """What is copied is copied once, whatever the number of evaluations: arrays, tables and conditions."""

    def network(x: Tensor, model_time: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is None or labels.device == x.device
        return x * model_time.to(x)[:, None, None, None] + (0 if labels is None else labels.sum())

    counts = []
    for nfe in (4, 10):
        process = PROCESSES[name]()
        solver = s4s.solver("dpmpp", s4s.grid("logsnr", process, nfe), order=3)
        denoiser = make_denoiser(
            process, network, conditional=guided, guidance=Guidance(2.0, torch.tensor([3])) if guided else None
        )
        counts.append(waits(solver, denoiser, torch.tensor([0, 1]) if guided else None))
    assert counts[0] == counts[1] and set(counts[0]) == {"_to_copy"}


def test_no_wait_inside_the_edm_network() -> None:
    found = []
    for nfe in (4, 10):
        solver = s4s.solver("ipndm", s4s.grid("edm", s4s.EDM(), nfe))
        with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
            net, x_T = EDMNetwork(CONFIG).eval().requires_grad_(False), torch.empty(2, 3, 8, 8)
            with Waits() as seen:
                s4s.sample(solver, net, x_T, check=False)
        found.append(seen.found)
    assert found[0] == found[1] == ["_to_copy"] * 3


def test_a_solver_on_the_device_copies_nothing() -> None:
    solver = s4s.solver("ipndm", s4s.grid("edm", s4s.EDM(), 4)).to("meta")
    x_T = torch.empty(2, 3, 8, 8, device="meta")
    with Waits() as seen:
        s4s.sample(solver, lambda x, sigma: x * sigma, x_T, check=False)
    assert seen.found == []


def test_running_as_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [flag.allow_tf32 for flag in flags]
    seen = []

    def network(x: Tensor, model_time: Tensor, condition: Tensor | None) -> Tensor:
        seen.append([flag.allow_tf32 for flag in flags])
        return x.sin() * model_time[:, None]

    x, sigma = torch.randn(2, 3), torch.ones(2)
    for dtype, allowed in (("float32", False), ("tf32", True), ("bfloat16", False)):
        running(network, {**RUN, "dtype": dtype})(x, sigma, None)
        assert seen[-1] == [allowed, allowed]
        assert [flag.allow_tf32 for flag in flags] == before
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    net = EDMNetwork(CONFIG).eval().requires_grad_(False)
    compiled = running(lambda x, sigma, labels: net(x, sigma, labels), {**RUN, "compile": True})
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    got, expected = compiled(images, sigma, None), net(images, sigma)
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-6)
    slopes = [torch.autograd.grad(D.square().sum(), images)[0] for D in (got, expected)]
    assert torch.allclose(*slopes, rtol=1e-4, atol=1e-5)


def test_a_compiled_network_sees_times_of_one_stride(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is compiled anew for another one."""
    seen = []
    monkeypatch.setattr(torch, "compile", lambda network: network)
    run = running(lambda x, time, condition: seen.append(time.stride()) or x, {**RUN, "compile": True})
    for time in (torch.ones(4), torch.ones(()).expand(4), torch.ones(4, 3)[:, 1]):
        run(torch.zeros(4, 2), time, None)
    assert seen == [(1,)] * 3
