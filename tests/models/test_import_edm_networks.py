"""Network pickles whose networks are not what they say."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import Refuse, assert_bounded
from nvidia_pickle import MODULE_DICT, Call, changed, child, dump, layer, network, parameter, state, tensor
from nvidia_pickle import refuse as refuse


def put(path: str, kind: str, key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda top: state(child(top["ema"], path))[kind].update({key: value})


def kwargs(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda top: state(top["ema"])["_init_kwargs"].update(changes)


def meta(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda top: top["ema"].args[0].update(changes)


def laughs(depth: int = 60) -> Any:
    """Lists of ten times the same list: 10^depth elements when walked or printed."""
    value: Any = ["ha"] * 10
    for _ in range(depth):
        value = [value] * 10
    return value


def diamond(top: dict[str, Any]) -> None:
    """Layers that hold the same two layers: 2^40 paths."""
    inner = layer("X")
    for _ in range(40):
        inner = layer("X", _modules={"a": inner, "b": inner})
    state(top["ema"])["_modules"]["more"] = inner


def itself(top: dict[str, Any]) -> None:
    modules = state(top["ema"])["_modules"]
    modules["more"] = layer("X", _modules=modules)


BIAS = ("model.map_layer0", "_parameters", "bias")
LAYERS = {
    "missing tensor": (put(*BIAS, None), r"lacks tensor 'model\.map_layer0\.bias'"),
    "extra tensor": (put("model", "_buffers", "freqs", tensor(torch.zeros(2))), r"unknown tensor 'model\.freqs'"),
    "wrong shape": (put(*BIAS, parameter(torch.zeros(15))), r"is torch\.float32 \[15\], needs torch\.float32 \[16\]"),
    "transposed": (put("model.map_layer0", "_parameters", "weight", parameter(torch.zeros(4, 16))), r"\[4, 16\]"),
    "doubles": (put(*BIAS, parameter(torch.zeros(16).double())), "as float64; published EDM weights are float32"),
    "bfloat16": (put(*BIAS, parameter(torch.zeros(16).bfloat16())), "stored as bfloat16"),
    "integers": (put(*BIAS, parameter(torch.zeros(16).long())), "stored as int64"),
    "NaN": (put(*BIAS, parameter(torch.full([16], float("nan")))), "NaN or infinity"),
    "infinity": (put(*BIAS, parameter(torch.tensor([1.0] * 15 + [float("-inf")]))), "NaN or infinity"),
    "expanded": (put(*BIAS, parameter(torch.zeros(1), size=(16,), stride=(0,))), "does not fit into its storage"),
    "beyond the storage": (put(*BIAS, parameter(torch.zeros(16), offset=1)), "does not fit"),
    "long strides": (put(*BIAS, parameter(torch.zeros(16), stride=((1 << 31) - 1,))), "does not fit"),
    "other filter": (put("model.enc.2x2_down.conv0", "_buffers", "resample_filter", tensor(torch.ones(1, 1, 2, 2))),
                     r"not the filter \[1, 1\]"),
    "text for a tensor": (put(*BIAS, "zeros"), "is not a tensor"),
    "layer for a tensor": (put(*BIAS, layer("Linear")), "is not a tensor"),
    "tensor for a layer": (put("model", "_modules", "more", tensor(torch.zeros(2))), "is not a layer"),
    "dotted name": (put("model", "_buffers", "a.b", tensor(torch.zeros(2))), "malformed name"),
    "escape codes": (put("model", "_buffers", "\x1b[2J", tensor(torch.zeros(2))), "malformed name"),
    "endless name": (put("model", "_modules", "a" * 10_000, layer("X")), "malformed name"),
    "parameters are a list": (lambda top: state(top["ema"]).update(_parameters=[1]), "not a dictionary"),
    "modules are a list": (lambda top: state(top["ema"]).update(_modules=["model"]), "not a SongUNet"),
    "there twice": (put("model.map_layer0", "_buffers", "bias", tensor(torch.zeros(16))), "there twice"),
    "2^40 layers": (diamond, "malformed name|more than"),
    "layers in a circle": (itself, "malformed name|more than"),
    "no ema": (lambda top: top.pop("ema"), "no network under the key 'ema'"),
    "ema is a tensor": (lambda top: top.update(ema=tensor(torch.zeros(2))), "no network under the key 'ema'"),
    "ema is a container": (lambda top: top.update(ema=Call(MODULE_DICT, (), pickle.NEWOBJ)), "class ModuleDict"),
    "a baseline": (meta(class_name="VPPrecond"), "class VPPrecond; only EDMPrecond"),
    "another network": (lambda top: child(top["ema"], "model").args[0].update(class_name="UNet"), "not a SongUNet"),
    "old version": (meta(version=3), "persistence version 6"),
    "no arguments": (lambda top: state(top["ema"]).pop("_init_kwargs"), "does not record"),
    "positional arguments": (lambda top: state(top["ema"]).update(_init_args=(32,)), "does not record"),
    "no resolution": (lambda top: state(top["ema"])["_init_kwargs"].pop("img_resolution"), "'img_resolution'"),
    "unknown argument": (kwargs(use_flash=True), "unknown constructor argument 'use_flash'"),
    "unknown argument, escapes": (kwargs(**{"\x1b[2J\n" * 99: 1}), "unknown constructor argument"),
    "NCSN++": (kwargs(embedding_type="fourier"), "'embedding_type' must be 'positional'"),
    "ADM": (kwargs(model_type="DhariwalUNet"), "'model_type' must be 'SongUNet'"),
    "filter": (kwargs(resample_filter=[1, 3, 3, 1]), r"'resample_filter' must be \[1, 1\]"),
    "filter laughs": (kwargs(resample_filter=laughs()), "'resample_filter' must be"),
    "a billion channels": (kwargs(model_channels=10**9), "'model_channels' must be an integer from 4 to 1024"),
    "a billion blocks": (kwargs(num_blocks=10**9), "'blocks' must be an integer"),
    "a billion levels": (kwargs(channel_mult=[1] * 100), "'channel_mult' must be a list of at most 8"),
    "levels laugh": (kwargs(channel_mult=laughs()), "'channel_mult' must be"),
    "resolution is text": (kwargs(img_resolution="4"), "'resolution' must be an integer"),
    "resolution is a tensor": (kwargs(img_resolution=tensor(torch.zeros(2))), "'resolution' must be an integer"),
    "another resolution": (kwargs(img_resolution=8), "lacks tensor"),
    "wider": (kwargs(model_channels=8), "needs torch.float32"),
    "sigma_data NaN": (kwargs(sigma_data=float("nan")), "'sigma_data'"),
    "sigma_data laughs": (kwargs(sigma_data=laughs()), "'sigma_data'"),
    "dropout is text": (kwargs(dropout="0"), "'dropout'"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_networks_that_are_not_what_they_say(refuse: Refuse, name: str) -> None:
    change, message = LAYERS[name]
    refuse(changed(change), message)


def test_a_list_at_the_top(refuse: Refuse) -> None:
    refuse(dump([network()[1]]), "does not hold a dictionary at the top")


def test_memory_stays_bounded(tmp_path: Path) -> None:
    assert_bounded(
        tmp_path,
        "edm",
        (
            changed(LAYERS[name][0])
            for name in (
                "filter laughs",
                "levels laugh",
                "2^40 layers",
                "a billion channels",
                "a billion levels",
                "expanded",
                "layers in a circle",
            )
        ),
    )
