"""Lean networks: the same function and gradients, fewer bytes kept."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import s4s
from s4s.learn.lean import lean, unlean
from s4s.learn.memory import SavedBytes
from s4s.models.ddpmpp import UNetConfig
from s4s.models.digits import DigitsUNet
from s4s.models.edm import EDMNetwork

SMALL = UNetConfig(16, model_channels=32, channel_mult=(1, 2), blocks=1, attention=(8,))
TINY = UNetConfig(8, model_channels=16, channel_mult=(1, 1), blocks=1, attention=(4,))
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}


def filled(net: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    return net.to(dtype).eval().requires_grad_(False)


def diffusers_unet() -> nn.Module:
    diffusers = pytest.importorskip("diffusers")
    return diffusers.UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, block_out_channels=(16, 32), layers_per_block=1,
        norm_num_groups=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


NETWORKS = {
    "edm": (lambda: EDMNetwork(SMALL), (3, 16, 16), 2.5),
    "digits": (lambda: DigitsUNet(16), (1, 8, 8), 1.3),
    "diffusers": (diffusers_unet, (3, 16, 16), 2.2),
}


def output(made: Any) -> Tensor:
    return made if isinstance(made, Tensor) else made.sample


def slopes(net: nn.Module, x: Tensor, sigma: Tensor) -> tuple[Tensor, list[Tensor], int]:
    """Output, gradients by image and level, bytes kept."""
    x, sigma = x.clone().requires_grad_(), sigma.clone().requires_grad_()
    with SavedBytes() as saved:
        D = output(net(x, sigma))
    kept = saved.now
    gradients = torch.autograd.grad(D.square().sum(), (x, sigma))
    return D.detach(), list(gradients), kept


def assert_close(got: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for a, b in zip(got, expected, strict=True):
        assert b.abs().max() > 0 and (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_lean_network_is_the_same_function_and_keeps_less(name: str, dtype: torch.dtype) -> None:
    make, shape, gain = NETWORKS[name]
    net = filled(make(), dtype)
    kind, x, sigma = type(net), torch.randn(3, *shape, dtype=dtype), torch.tensor(0.7, dtype=dtype)
    D, expected, kept = slopes(net, x, sigma)
    D_lean, got, kept_lean = slopes(lean(lean(net)), x, sigma)
    assert torch.equal(D_lean, D)
    assert_close(got, expected, TOLERANCE[dtype])
    assert kept / kept_lean >= gain
    assert isinstance(net, kind) and type(net).__name__ == kind.__name__
    assert type(unlean(net)) is kind and type(unlean(net)) is kind
    assert slopes(net, x, sigma)[2] == kept


class Odd(nn.Module):
    """Operations at the edge of what a lean network replaces."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, (3, 5), stride=(2, 3), padding=(1, 2), dilation=(2, 1), groups=2)
        self.same = nn.Conv2d(8, 8, 3, padding="same", padding_mode="circular")
        self.norm = nn.GroupNorm(2, 8)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        x = self.same(self.conv(sigma * x))
        h = self.norm(x)
        y = F.silu(h) + h.cos()
        changed = self.norm(y).mul_(2)
        y = y + F.silu(changed) + F.silu(self.norm(y) + 1) + F.silu(self.norm(y).clone(), inplace=True)
        y = F.avg_pool2d(y, 3, stride=1, padding=1) + F.avg_pool2d(y, 2, ceil_mode=True).mean()
        y = F.conv2d(input=y, weight=self.conv.weight[:, :, :1, :1], groups=4)
        mask = torch.ones(y.shape[-2], y.shape[-2], dtype=torch.bool).tril()
        return F.scaled_dot_product_attention(y, y * 2, y.detach(), attn_mask=mask) + F.avg_pool2d(y, 1)


def test_odd_operations() -> None:
    net, x, sigma = filled(Odd()), torch.randn(2, 4, 17, 23).double(), torch.tensor(0.7).double()
    D, expected, _ = slopes(net, x, sigma)
    D_lean, got, _ = slopes(lean(net), x, sigma)
    assert torch.equal(D_lean, D)
    assert_close(got, expected, 1e-12)


def test_a_lean_network_under_other_kinds_of_differentiation() -> None:
    plain = filled(EDMNetwork(TINY))
    net, x, v = lean(copy.deepcopy(plain)), torch.randn(2, 3, 8, 8).double(), torch.randn(2, 3, 8, 8).double()
    sigma = torch.tensor(0.7).double()
    for tool in (torch.func.jvp, torch.autograd.functional.jvp):
        expected = tool(lambda z: plain(z, sigma), (x,), (v,))[1]
        if tool is torch.func.jvp:
            assert_close([tool(lambda z: net(z, sigma), (x,), (v,))[1]], [expected], 1e-12)
        else:
            with pytest.raises(s4s.Error, match="no second derivatives"):
                tool(lambda z: net(z, sigma), (x,), (v,))
    with torch.no_grad():
        assert torch.equal(net(x, sigma), plain(x, sigma))


def test_trainable_weights_keep_their_gradients() -> None:
    plain = filled(EDMNetwork(TINY)).requires_grad_(True)
    net, x = lean(copy.deepcopy(plain)), torch.randn(2, 3, 8, 8).double().requires_grad_()
    for each in (plain, net):
        each(x, torch.tensor(0.7)).square().sum().backward()
    got, expected = ([p.grad for p in each.parameters() if p.grad is not None] for each in (net, plain))
    assert_close(got, expected, 1e-12)
