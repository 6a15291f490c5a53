"""Latent diffusion: import, networks, guidance, conditions, against plain functions in the original layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compvis_layout as compvis
import pytest
import torch
from compvis_layout import TINY, TINY_CLASSES, Weights
from pipelines import close
from safetensors.torch import load_file
from torch import Tensor

import s4s
from s4s.errors import Error
from s4s.files import sha256
from s4s.models import load_model
from s4s.models.compvis import unet_source, vae_source
from s4s.models.ldm import IMAGENET256, LSUN_BEDROOM, LDMConfig, networks, process
from s4s.models.ldm_convert import import_ldm
from s4s.models.model import Model

pytest.importorskip("diffusers")

Parts = tuple[Weights, Weights, Tensor | None]


def imported(folder: Path, config: LDMConfig, parts: Parts, ema: Weights | None = None) -> tuple[Path, dict[str, Any]]:
    ckpt = compvis.save(folder / "model.ckpt", compvis.state_dict(*parts, ema))
    out = folder / "net.safetensors"
    return out, import_ldm(ckpt, out, sha256(ckpt), kind=config, licence="MIT")


@pytest.fixture(scope="module")
def bedroom(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Parts, Weights]:
    parts, ema = compvis.draw(TINY, 0), compvis.draw(TINY, 50)[0]
    return imported(tmp_path_factory.mktemp("bedroom"), TINY, parts, ema)[0], parts, ema


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Parts]:
    parts = compvis.draw(TINY_CLASSES, 1)
    return imported(tmp_path_factory.mktemp("imagenet"), TINY_CLASSES, parts)[0], parts


def x0(eps: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor) -> Tensor:
    """Independent: EDM coordinates -> VP, a table lookup of the real index, and back."""
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2
    log_alpha = (1 - betas).cumprod(0).log() / 2
    wanted = -0.5 * torch.log1p(sigma.double() ** 2).expand(len(x))
    right = torch.searchsorted(-log_alpha, -wanted).clamp(1, 999)
    index = right - (wanted - log_alpha[right]) / (log_alpha[right - 1] - log_alpha[right])
    return x - sigma.reshape(-1, 1, 1, 1) * eps((x.double() * wanted.exp()[:, None, None, None]).float(), index.float())


def state(seed: int, n: int = 2) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("sigma", [torch.tensor(3.21), torch.tensor([0.07, 55.5])], ids=["scalar", "batch"])
def test_denoise_of_bedroom_agrees_with_the_original_and_uses_the_ema_weights(bedroom: Any, sigma: Tensor) -> None:
    path, _, ema = bedroom
    model = load_model({"type": "ldm"}, path)
    x = state(0) * (1 + sigma.reshape(-1, 1, 1, 1))
    expected = x0(lambda x, t: compvis.unet(ema, TINY, x, t), x, sigma)
    close(model.denoiser(None)(x, sigma), expected)
    close(model.denoiser(None)(x.float(), sigma), expected)
    assert model.denoiser(None)(x.float(), sigma).dtype == torch.float32
    assert model.facts["ema"] == "the EMA copy in the file"
    assert model.facts["source"]["licence"] == "MIT"
    assert json.loads(json.dumps(model.facts)) == model.facts


def test_denoise_of_imagenet_agrees_with_two_calls_of_the_original(imagenet: Any) -> None:
    path, (net, _, table) = imagenet
    model = load_model({"type": "ldm", "guidance": 2.0}, path)
    labels, sigma = torch.tensor([3, 7]), torch.tensor([9.0, 0.4])
    x = state(1) * 5

    def guided(x: Tensor, t: Tensor) -> Tensor:
        with_ = compvis.unet(net, TINY_CLASSES, x, t, table[labels][:, None])
        without = compvis.unet(net, TINY_CLASSES, x, t, table[[10, 10]][:, None])
        return without + 2 * (with_ - without)

    close(model.denoiser(labels)(x, sigma), x0(guided, x, sigma))
    assert model.facts["classes"]["null"] == 10 and model.facts["guidance"] == 2.0


def test_guidance_is_one_call_and_scale_one_is_the_conditional_model(imagenet: Any, monkeypatch: Any) -> None:
    from diffusers import UNet2DConditionModel

    sizes = []
    forward = UNet2DConditionModel.forward
    monkeypatch.setattr(
        UNet2DConditionModel, "forward", lambda s, x, *a, **k: sizes.append(len(x)) or forward(s, x, *a, **k)
    )
    x, labels, sigma = state(2), torch.tensor([1, 2]), torch.tensor(2.0)
    guided, conditional, null = (
        load_model({"type": "ldm", "guidance": g}, imagenet[0]).denoiser(c)(x, sigma)
        for g, c in ((2.0, labels), (1.0, labels), (None, torch.tensor([10, 10])))
    )
    assert sizes == [4, 2, 2]
    close(guided, null + 2 * (conditional - null))


def test_stacked_copies_of_the_batch_see_the_same_condition(imagenet: Any) -> None:
    denoise = load_model({"type": "ldm"}, imagenet[0]).denoiser(torch.tensor([4, 9]))
    x, sigma = torch.cat([state(3), state(4)]), torch.tensor([1.0, 1.0, 2.0, 2.0])
    close(denoise(x, sigma)[:2], denoise(x[:2], torch.tensor(1.0)))
    close(denoise(x, sigma)[2:], denoise(x[2:], torch.tensor(2.0)))
    with pytest.raises(Error, match="does not fit a batch of 3"):
        denoise(x[:3], torch.tensor(1.0))


def test_gradients_reach_the_input_and_the_decoder_but_no_weight(imagenet: Any) -> None:
    model = load_model({"type": "ldm"}, imagenet[0])
    x = state(5, 1).float().requires_grad_()
    model.decode(model.denoiser(torch.tensor([0]))(x, torch.tensor(1.5))).square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and (x.grad != 0).any()


def test_decode_agrees_with_the_original_in_chunks(bedroom: Any) -> None:
    path, (_, stage, _), _ = bedroom
    z = state(6, 9)
    close(load_model({"type": "ldm"}, path).decode(z), compvis.decode(stage, TINY, z.float()))


def test_sampling_in_edm_coordinates_agrees_with_ddim_in_the_models_own_process(bedroom: Any) -> None:
    path, _, ema = bedroom
    model = load_model({"type": "ldm", "t_min": 0.01}, path)
    grid = s4s.grid("logsnr", model.process, 5)
    noise = state(7)
    found = s4s.sample(s4s.solver("ddim", grid), model.denoiser(None), grid[0] * noise)
    alpha, sigma = (f(model.process.time(grid)) for f in (model.process.alpha, model.process.sigma))
    x = alpha[0] * grid[0] * noise
    for n in range(5):
        index = (1000 * model.process.time(grid[n]) - 1).expand(2).float()
        eps = compvis.unet(ema, TINY, x.float(), index)
        x = alpha[n + 1] * (x - sigma[n] * eps) / alpha[n] + sigma[n + 1] * eps
    close(found, x / alpha[-1])


def test_conditions_depend_on_the_index_alone(imagenet: Any) -> None:
    for plan, counts in (({}, {10}), ({"classes": "random", "class_seed": 5}, set(range(1, 30)))):
        model = load_model({"type": "ldm"} | plan, imagenet[0])
        whole = model.condition(range(100))
        assert whole is not None and whole.dtype == torch.int64
        pieces = [model.condition(range(a, b)) for a, b in ((0, 7), (7, 8), (8, 100))]
        assert torch.equal(torch.cat(pieces), whole)  # type: ignore[arg-type]
        assert set(whole.bincount(minlength=10).tolist()) <= counts and whole.max() == 9
    assert (
        load_model({"type": "ldm", "classes": "random", "class_seed": 6}, imagenet[0])
        .condition(range(100))
        .ne(whole)
        .any()
    )


def test_conversion_is_lossless(bedroom: Any, imagenet: Any) -> None:
    for config, path, net, stage in (
        (TINY, bedroom[0], bedroom[2], bedroom[1][1]),
        (TINY_CLASSES, imagenet[0], imagenet[1][0], imagenet[1][1]),
    ):
        ours = load_file(path)
        for prefix, source, theirs in (("unet.", unet_source(config), net), ("vae.", vae_source(config), stage)):
            rebuilt: dict[str, Any] = {}
            for key in (k for k in ours if k.startswith(prefix)):
                at = source(key[len(prefix) :])
                if at.part is None:
                    rebuilt[at.name] = ours[key].reshape(theirs[at.name].shape)
                else:
                    rebuilt.setdefault(at.name, [None] * 3)[at.part] = ours[key].unflatten(0, (-1, config.head_dim))
            for name, value in rebuilt.items():
                if isinstance(value, list):
                    rebuilt[name] = torch.stack(value, 1).reshape(theirs[name].shape)
            assert rebuilt.keys() == theirs.keys()
            assert all(torch.equal(rebuilt[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("config, count", [(LSUN_BEDROOM, 274_056_163), (IMAGENET256, 400_920_579)])
def test_published_sizes_have_the_published_counts_and_every_tensor_one_source(config: LDMConfig, count: int) -> None:
    nets = networks(config)
    assert sum(p.numel() for p in nets["unet"].parameters()) == count
    assert sum(p.numel() for p in nets["vae"].parameters()) == 55_322_782
    sources = [unet_source(config)(key) for key in nets["unet"].state_dict()]
    names = {s.name for s in sources}
    assert len({(s.name, s.part) for s in sources}) == len(sources)
    assert len({name.replace(".", "") for name in names}) == len(names)  # EMA names stay distinct without their dots


def test_the_process_is_the_one_of_the_paper() -> None:
    p = process()
    assert p.sigma_max == pytest.approx(83.8, rel=1e-3)
    assert p.model_time(p.level(0.5)).item() == pytest.approx(499.0)


def test_half_precision_keeps_the_state_in_its_own(bedroom: Any) -> None:
    model = load_model({"type": "ldm", "dtype": "bfloat16", "channels_last": True}, bedroom[0])
    exact = load_model({"type": "ldm"}, bedroom[0])
    x, sigma = state(8).float(), torch.tensor(0.5)
    found = model.denoiser(None)(x, sigma)
    assert found.dtype == torch.float32 and model.decode(x).dtype == torch.float32
    torch.testing.assert_close(found, exact.denoiser(None)(x, sigma), atol=0.1, rtol=0.1)


@pytest.mark.parametrize("legacy", [False, True])
def test_old_and_new_torch_files_import_alike(tmp_path: Path, legacy: bool) -> None:
    state = compvis.state_dict(*compvis.draw(TINY, 4))
    ckpt = compvis.save(tmp_path / "a.ckpt", state, _use_new_zipfile_serialization=not legacy)
    assert import_ldm(ckpt, tmp_path / "n.safetensors", sha256(ckpt), kind=TINY)["weights"]["tensors"] == 269


def test_imported_files_are_checked_when_loaded(tmp_path: Path, bedroom: Any) -> None:
    path = tmp_path / "net.safetensors"
    record = tmp_path / "net.json"
    for file in (path, record):
        file.write_bytes(bedroom[0].with_suffix(file.suffix).read_bytes())
    for settings, message in (
        ({"guidance": 2.0}, "needs a class-conditional model"),
        ({"gidance": 2.0}, "unknown setting of a ldm model 'gidance'"),
        ({"dtype": "float8"}, "unknown dtype"),
    ):
        with pytest.raises(Error, match=message):
            load_model({"type": "ldm"} | settings, path)
    with pytest.raises(Error, match="unconditional; give it None"):
        model: Model = load_model({"type": "ldm"}, path)
        model.denoiser(torch.tensor([0]))
    data = json.loads(record.read_text())
    for change, message in (
        ({"config": {}}, "exactly the keys"),
        ({"version": 9}, "of version 1"),
        ({"weights": {}}, "sha256"),
    ):
        record.write_text(json.dumps(data | change))
        with pytest.raises(Error, match=message):
            load_model({"type": "ldm"}, path)
    record.write_text(json.dumps(data))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(Error, match="not the weights that the"):
        load_model({"type": "ldm"}, path)
    with pytest.raises(Error, match="s4s import ldm"):
        load_model({"type": "ldm"})
    with pytest.raises(Error, match="choose one of: diffusers, digits, edm, ldm"):
        load_model({"type": "gan"})
