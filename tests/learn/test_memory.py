"""Recomputed steps: the same gradients, and memory that does not grow with the number of evaluations."""

from __future__ import annotations

import platform
import subprocess
import sys
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import s4s
from s4s.learn import memory
from s4s.learn.family import family
from s4s.learn.lean import lean
from s4s.learn.memory import SavedBytes, plenty, recompute
from s4s.models.ddpmpp import UNetConfig
from s4s.models.edm import CIFAR10, EDMNetwork, skeleton
from s4s.solver import Denoise

GIB = 2**30
PROCESS = s4s.EDM(0.002, 80.0)
SMALL = UNetConfig(8, model_channels=16, channel_mult=(1, 2), blocks=1, attention=(4,))


def network(dtype: torch.dtype = torch.float64) -> EDMNetwork:
    torch.manual_seed(0)
    net = EDMNetwork(SMALL)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    return net.to(dtype).eval().requires_grad_(False)


def loss(denoise: Denoise, nfe: int, x_T: Tensor, theta: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A fitting step's loss, and the parameters it is differentiated by."""
    made = family(s4s.solver("ipndm", s4s.grid("edm", PROCESS, nfe), order=3), "lms")
    theta = made.theta.clone().requires_grad_() if theta is None else theta
    return s4s.sample(made.solver(theta), denoise, x_T, check=False).square().mean(), theta


def slope(denoise: Denoise, nfe: int, x_T: Tensor) -> Tensor:
    value, theta = loss(denoise, nfe, x_T)
    return torch.autograd.grad(value, theta)[0]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("budget", [0, 3e6, None])
@pytest.mark.parametrize("thin", [False, True])
def test_gradients_are_those_of_the_plain_path(
    dtype: torch.dtype, tolerance: float, budget: float | None, thin: bool
) -> None:
    net, x_T = network(dtype), 80 * s4s.noise(0, range(4), (3, 8, 8)).to(dtype)
    expected = slope(net, 5, x_T)
    got = slope(recompute(lean(net) if thin else net, budget), 5, x_T)
    assert expected.abs().max() > 0
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


class Calls:
    """Counts the calls of a denoiser."""

    def __init__(self, denoise: Denoise) -> None:
        self.denoise, self.count = denoise, 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.count += 1
        return self.denoise(x, sigma)


def test_a_budget_keeps_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "plenty", lambda device: GIB)  # for None, whatever this machine has free now
    net, x_T = network(), 80 * s4s.noise(0, range(4), (3, 8, 8))
    one, calls, peaks = bytes_of_one(net, x_T), [], []
    for budget in (0, 3.5 * one, 5 * one, 100 * one, None):
        counted = Calls(net)
        again = recompute(counted, budget)
        for _ in range(2):  # what was kept is given back after each backward pass
            counted.count = 0
            with LiveBytes() as live:
                slope(again, 6, x_T)
            calls.append(counted.count)
        peaks.append(live.peak)
    assert calls[::2] == calls[1::2]
    assert [calls[0], *calls[6::2]] == [12, 6, 6] and 12 > calls[2] > calls[4] > 6
    assert peaks[0] < peaks[1] < peaks[0] + 3.5 * one < peaks[3]
    with torch.no_grad():
        counted.count = 0
        s4s.sample(s4s.solver("ddim", s4s.grid("edm", PROCESS, 6)), recompute(counted), x_T)
    assert counted.count == 6


def test_bad_budget() -> None:
    with pytest.raises(s4s.Error, match="budget = -1 bytes"):
        recompute(network(), -1)
    assert plenty(torch.device("cpu")) > 0 and plenty(torch.device("meta")) == float("inf")


def test_fits_are_the_same_with_and_without() -> None:
    net = network()
    start = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 3))
    teacher = s4s.teacher_set(
        s4s.solver("ddim", s4s.grid("edm", PROCESS, 6)), net, n=24, shape=(3, 8, 8), dtype=torch.float64
    )
    fits = [
        s4s.fit(start, net, teacher, "s4s", radius=0.05, rounds=2, checkpoint=checkpoint)
        for checkpoint in (False, True, None)
    ]
    for other in fits[1:]:
        assert other.evaluations == fits[0].evaluations
        assert torch.allclose(other.solver.weight, fits[0].solver.weight, rtol=1e-6, atol=1e-9)
    assert not torch.equal(fits[0].solver.weight, start.weight)


def bytes_of_one(denoise: Denoise, x_T: Tensor) -> int:
    """What one evaluation keeps."""
    sigma = torch.ones((), dtype=x_T.dtype, device=x_T.device, requires_grad=True)
    with SavedBytes() as saved:
        D = denoise(x_T.clone().requires_grad_(), sigma)
    one = saved.now
    del D
    assert saved.now == 0 and saved.peak == one
    return one


def most_kept(denoise: Denoise, nfe: int, x_T: Tensor) -> int:
    """The most that autograd keeps at a time, forward and backward; to x_T, which may lie on the meta device."""
    x_T = x_T.clone().requires_grad_()
    with SavedBytes() as saved:
        torch.autograd.grad(loss(denoise, nfe, x_T)[0], x_T)
    return saved.peak


class LiveBytes(TorchDispatchMode):
    """The most bytes that tensors made in the block held at one time, whoever holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                self.follow(tensor.untyped_storage())
        return made

    def follow(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self.known:
            return
        self.known.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.forget, storage._cdata, storage.nbytes())

    def forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def test_memory_does_not_grow_with_the_number_of_evaluations() -> None:
    """Every tensor counted, whoever holds it, forward and backward."""
    net, x_T = lean(network()), 80 * s4s.noise(0, range(4), (3, 8, 8))
    peaks = {}
    for name, denoise in (("plain", net), ("flat", recompute(net))):
        for nfe in (4, 10):
            with LiveBytes() as live:
                slope(denoise, nfe, x_T)
            peaks[name, nfe] = live.peak
    assert peaks["flat", 10] <= 1.15 * peaks["flat", 4]
    assert peaks["flat", 4] < peaks["plain", 4]
    assert peaks["plain", 10] > 2 * peaks["plain", 4]


def test_bytes_of_the_published_cifar10_network() -> None:
    """55.7 million parameters, batch 24, float32: exact counts without memory behind them.

    Of 5 evaluations where every one adds as much, of 4 and 10 where they should not.
    """
    net = skeleton(CIFAR10).eval().requires_grad_(False)
    x_T = torch.empty(24, 3, 32, 32, device="meta")
    stock, flat_alone = (most_kept(each, 5, x_T) / GIB for each in (net, recompute(net)))
    lean(net)
    thin, both, both_4 = (
        most_kept(each, nfe, x_T) / GIB for each, nfe in ((net, 5), (recompute(net), 10), (recompute(net), 4))
    )
    assert 26 < 2 * stock < 28 and flat_alone < 2 * stock / 9
    assert 2 * thin <= 10
    assert bytes_of_one(net, x_T) / GIB < both <= 1.2
    assert both <= 1.15 * both_4


def test_what_recompute_cannot_do_is_refused() -> None:
    net, x_T = network(), 80 * s4s.noise(0, range(2), (3, 8, 8))
    with pytest.raises(s4s.Error, match=r"a tensor \[.*\] inside the network needs a gradient; freeze it first"):
        slope(recompute(net.requires_grad_(True)), 3, x_T)
    value, theta = loss(recompute(net.requires_grad_(False)), 3, x_T)
    with pytest.raises(s4s.Error, match="no second derivatives"):
        torch.autograd.grad(value, theta, create_graph=True)


def test_past_recompute_go_other_kinds_of_differentiation() -> None:
    net, x, v = network(), torch.randn(2, 3, 8, 8).double(), torch.randn(2, 3, 8, 8).double()
    sigma = torch.tensor(0.7).double()
    expected, got = (torch.func.jvp(lambda z, f=f: f(z, sigma), (x,), (v,))[1] for f in (net, recompute(net)))
    assert torch.equal(got, expected) and got.abs().max() > 0


def test_autocast_is_the_same_in_both_passes() -> None:
    net, x_T = network(torch.float32), 80 * s4s.noise(0, range(2), (3, 8, 8)).float()
    slopes = []
    for denoise in (net, recompute(net), recompute(lean(net)), net):
        with torch.autocast("cpu", torch.bfloat16):
            value, theta = loss(denoise, 3, x_T)
        slopes.append(torch.autograd.grad(value, theta)[0])
    plain = slope(net, 3, x_T)
    assert not torch.allclose(slopes[0], plain, rtol=1e-3)
    for other in slopes[1:]:
        assert torch.allclose(other, slopes[0], rtol=1e-5)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_stays_with_the_process() -> None:
    program = """
import resource, torch
from s4s import keep_freed
assert keep_freed()
faults = []
for k in range(40):
    [torch.ones(16, 2**18) for _ in range(16)]  # 16 MiB each; the first rounds find a place for them
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[39] - faults[29])
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert int(run.stdout) < 4096  # of 655,360 where every round takes them anew
