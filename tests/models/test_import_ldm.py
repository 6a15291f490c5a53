"""CompVis checkpoints through the command line: honest ones, and ones that are damaged or meant to harm."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compvis_layout as compvis
import pytest
import torch
from compvis_layout import TINY, Weights
from hostile import Gadget, Refuse, main_returns
from safetensors.torch import load_file

from s4s.models.ldm import KINDS


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "tiny", TINY)


@pytest.fixture
def refuse(refused: Refuse) -> Refuse:
    return lambda file, message, *options: refused("ldm", file, message, "--kind", "tiny", *options)


def run(file: Path, *options: str) -> None:
    main_returns(["import", "ldm", str(file), "--kind", "tiny", "--out", "net.safetensors", *options])


# --- what an import says ---


def test_ema_weights_are_taken_and_it_says_so(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    parts, ema = compvis.draw(TINY), compvis.draw(TINY, 50)[0]
    name, key = "unet.conv_out.bias", "out.2.bias"
    for file, average, said in (
        ("plain.ckpt", None, "weights: no separate copy in the file; its only weights"),
        ("ema.ckpt", ema, "weights: the EMA copy in the file"),
    ):
        path = compvis.save(Path(file), compvis.state_dict(*parts, average))
        run(path, "--sha256", hashlib.sha256(path.read_bytes()).hexdigest())
        assert capsys.readouterr().out.splitlines() == ["net.safetensors", said]
        assert torch.equal(load_file("net.safetensors")[name], (average or parts[0])[key])


def test_first_stage_in_a_file_of_its_own(refuse: Refuse, tmp_path: Path, capsys: Any) -> None:
    net, stage, _ = compvis.draw(TINY, 3)
    ckpt = compvis.save(tmp_path / "a.ckpt", compvis.state_dict(net, Weights(0), None))
    vq = compvis.save(tmp_path / "b.ckpt", dict(stage) | {"loss.discriminator.weight": torch.ones(1)})
    a, b = (["--sha256", hashlib.sha256(path.read_bytes()).hexdigest()] for path in (ckpt, vq))
    refuse(ckpt, r"a\.ckpt: first stage: the checkpoint lacks the tensor 'encoder\.conv_in\.weight'", *a)
    refuse(ckpt, r"b\.ckpt: no SHA-256 .* with --first-stage-sha256", *a, "--first-stage", str(vq))
    wrong = ["--first-stage", str(vq), "--first-stage-sha256"]
    refuse(ckpt, r"b\.ckpt: has SHA-256", *a, *wrong, "0" * 64)
    refuse(ckpt, "takes 64 hexadecimal digits", *a, *wrong, "0")
    run(ckpt, *a, *wrong, b[1])
    assert capsys.readouterr().out.splitlines()[0] == "net.safetensors"
    assert torch.equal(load_file("net.safetensors")["vae.encoder.conv_in.weight"], stage["encoder.conv_in.weight"])


def test_unknown_kind(refused: Refuse) -> None:
    refused(
        "ldm", b"x", "unknown kind of latent diffusion model 'bedroom'; choose one of: imagenet256", "--kind", "bedroom"
    )


# --- networks that are not what they say ---


def edit(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return lambda state: {key: value for key, value in (state | named).items() if value is not None}


QKV = "model__diffusion_model__input_blocks__3__1__qkv__weight"
STATES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "code": (edit(evil=Gadget()), r"refers to '(posix|nt)\.system', which is not allowed; nothing was run"),
    "not a dictionary": (lambda state: [state], "holds no 'state_dict'"),
    "numbered keys": (lambda state: {1: torch.ones(1)}, "holds no 'state_dict'"),
    "missing": (edit(model__diffusion_model__out__2__bias=None), r"lacks the tensor 'out\.2\.bias'"),
    "unknown": (edit(model__diffusion_model__extra=torch.ones(1)), r"unknown tensor 'extra' \(1 in all\)"),
    "escape codes": (lambda state: state | {"first_stage_model.\x1b[2J\n": torch.ones(1)}, r"unknown tensor '\\x1b"),
    "unknown in the first stage": (edit(first_stage_model__x=torch.ones(1)), "first stage: .*unknown tensor 'x'"),
    "wrong shape": (edit(**{QKV: torch.ones(3, 64, 1)}), r"needs torch.float32 \[192, 64, 1\]"),
    "transposed": (edit(**{QKV: torch.ones(64, 192, 1)}), r"\[64, 192, 1\], needs torch.float32 \[192, 64, 1\]"),
    "huge view": (edit(**{QKV: torch.ones(1, 1, 1).expand(1 << 40, 64, 1)}), "needs torch.float32"),
    "doubles": (edit(model__diffusion_model__out__2__bias=torch.ones(3).double()), "is torch.float64"),
    "halves": (edit(model__diffusion_model__out__2__bias=torch.ones(3).half()), "is torch.float16"),
    "a number": (edit(model__diffusion_model__out__2__bias=3), "is not a plain tensor"),
    "sparse": (edit(model__diffusion_model__out__2__bias=torch.ones(3).to_sparse()), "which is not allowed"),
    "meta": (edit(model__diffusion_model__out__2__bias=torch.ones(3, device="meta")), "which is not allowed"),
    "NaN": (edit(first_stage_model__quantize__embedding__weight=torch.full((16, 3), torch.nan)), "NaN or infinity"),
    "infinity": (edit(model__diffusion_model__out__2__bias=torch.full((3,), -torch.inf)), "NaN or infinity"),
    "half an EMA": (edit(**{"model_ema__diffusion_modelout2bias": torch.ones(3)}), "lacks the tensor 'model_ema"),
    "other schedule": (edit(alphas_cumprod=torch.linspace(0.9, 0.1, 1000)), "noise schedule is not the one"),
    "scaled latents": (edit(scale_factor=torch.tensor(0.18)), "scale_factor 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_networks_that_are_not_what_they_say(refuse: Refuse, name: str) -> None:
    change, message = STATES[name]
    refuse(compvis.dump(change(compvis.state_dict(*compvis.draw(TINY)))), message)
