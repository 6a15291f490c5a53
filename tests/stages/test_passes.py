"""Forward passes counted without running them: against arithmetic by hand and published numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from s4s.stages.config import load
from s4s.stages.passes import passes, trace

NOWHERE = Path("nowhere")
CONFIG = Path(__file__).parents[2] / "config" / "digits.yaml"


def benchmark(**model: Any) -> dict[str, Any]:
    """The digits benchmark around another model."""
    data = {"edm": model.pop("data", None)}.get(model["type"])
    return load(CONFIG) | {"model": model, "score": {"protocol": "edm", "data": data}}


def test_flops_and_memory_of_small_networks_by_hand() -> None:
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 1))
        x = torch.empty(1, 3, 4, 4)
    found = trace(net, lambda: net(x))
    assert found.parameters == 3 * 9 * 8 + 8 + 8 * 5 + 5
    assert found.flops == 2 * 16 * (3 * 9 * 8 + 8 * 5)
    assert found.live == 4 * 16 * (8 + 8)  # the first convolution and its ReLU; never more at once
    assert found.shape == (5, 4, 4)


def test_attention_stores_its_result_only() -> None:
    with torch.device("meta"):
        net, q = nn.Linear(6, 6, bias=False), torch.empty(1, 2, 100, 6)
    k, v = (torch.empty(1, 2, 70, 6, device="meta") for _ in range(2))
    found = trace(net, lambda: F.scaled_dot_product_attention(net(q), k, v))
    assert found.flops == 2 * 200 * 36 + 2 * 2 * 100 * 70 * 6 * 2
    assert found.live == 4 * (1200 + 1200)


@pytest.mark.parametrize(
    ("model", "parameters", "gflop"),
    [
        ({"type": "edm", "data": "cifar10"}, [55_733_891], [42.4]),  # FLOPs: measured elsewhere on the published code
        ({"type": "edm", "data": "ffhq"}, [61_805_571], [83.2]),
        ({"type": "ldm", "kind": "lsun_bedroom"}, [274_056_163, 55_322_782], [202.4, 670.6]),
        ({"type": "stable-diffusion"}, [859_520_964, 83_653_863], [803.3, 2514.5]),  # 401.6 G multiply-adds
    ],
)
def test_published_networks(model: dict[str, Any], parameters: list[int], gflop: list[float]) -> None:
    if model["type"] != "edm":
        pytest.importorskip("diffusers")
    found = passes(benchmark(**model), NOWHERE)
    assert [network.parameters for network in found] == parameters
    assert [network.flops / 1e9 for network in found] == pytest.approx(gflop, rel=0.005)


def test_sizes_that_are_not_known_yet() -> None:
    assert passes(benchmark(type="edm", data="mine"), NOWHERE) == []
    assert passes(benchmark(type="diffusers", path="nowhere"), NOWHERE) == []
