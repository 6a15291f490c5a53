"""Model folders as people have them, local and by id: flat, half-precision variants, shards, sizes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from pipelines import autoencoder, close, ddim, ddpm_folder, diffusers, edit_json, listed, states, transformer, unet
from safetensors.torch import load_file
from stable import stable as stable
from torch import Tensor

import s4s
from s4s.errors import Error
from s4s.models import diffusers_model, hub, load_model, stable_diffusion
from s4s.models.model import Model

STEM = "diffusion_pytorch_model"
UNET = unet()


def flat(root: Path) -> Path:
    """The layout of the first published pipelines: no sub-folders."""
    ddpm_folder(root, UNET, ddim())
    for part in ("unet", "scheduler"):
        for file in (root / part).iterdir():
            file.rename(root / file.name)
        (root / part).rmdir()
    return root


def saved(root: Path, **options: Any) -> Path:
    """A pipeline, its network saved anew with options of ``save_pretrained``."""
    ddpm_folder(root, UNET, ddim())
    (root / "unet" / f"{STEM}.safetensors").unlink()
    UNET.save_pretrained(root / "unet", **options)
    return root


def predicted(model: Model) -> Tensor:
    return model.denoiser(None)(states(2, 3), torch.tensor(1.5))


def whole(tmp_path: Path) -> Model:
    return load_model({"type": "diffusers"}, ddpm_folder(tmp_path / "whole", UNET, ddim()))


SAVED: dict[str, dict[str, Any]] = {
    "sharded": {"max_shard_size": "20KB"},
    "sharded bin": {"max_shard_size": "20KB", "safe_serialization": False},
    "bin": {"safe_serialization": False},
    "fp16": {"variant": "fp16"},
    "bf16": {"variant": "bf16"},
    "fp16 bin": {"variant": "fp16", "safe_serialization": False},
    "fp16 sharded": {"variant": "fp16", "max_shard_size": "20KB"},
    "fp16 sharded bin": {"variant": "fp16", "max_shard_size": "20KB", "safe_serialization": False},
}


@pytest.mark.parametrize("case", SAVED)
def test_every_way_of_saving_is_read(case: str, tmp_path: Path) -> None:
    variant = SAVED[case].get("variant")
    root = saved(tmp_path / "saved", **SAVED[case])
    spec = {"type": "diffusers", "path": str(root)} | ({"variant": variant} if variant else {})
    model = load_model(spec)
    assert torch.equal(predicted(model), predicted(whole(tmp_path)))
    diffusers_model.check(spec, root)
    assert any(name.startswith(f"unet/{STEM}") for name in model.facts["files_sha256"])
    if variant:
        for read in (lambda spec: load_model(spec), lambda spec: diffusers_model.check(spec, root)):
            with pytest.raises(Error, match=f"of the variant {variant} alone: set variant: {variant} in the model"):
                read({"type": "diffusers", "path": str(root)})


def test_a_variant_is_taken_where_there_is_one(tmp_path: Path) -> None:
    root = ddpm_folder(tmp_path / "both", UNET, ddim())
    other = unet()
    with torch.no_grad():
        other.conv_in.bias += 1
    other.save_pretrained(root / "unet", variant="fp16")
    plain, half = (load_model({"type": "diffusers", "path": str(root), "variant": v}) for v in (None, "fp16"))
    assert not torch.equal(predicted(plain), predicted(half))
    assert (plain.facts["variant"], half.facts["variant"]) == (None, "fp16")
    for read in (load_model, lambda spec: diffusers_model.check(spec, root)):
        with pytest.raises(Error, match="no weights of the variant 'bf16'; leave variant out"):
            read({"type": "diffusers", "path": str(root), "variant": "bf16"})


def test_a_flat_folder_is_read_as_diffusers_reads_it(tmp_path: Path) -> None:
    root = flat(tmp_path / "flat")
    theirs = diffusers.DDPMPipeline.from_pretrained(root).unet
    model = load_model({"type": "diffusers", "path": str(root)})
    assert torch.equal(predicted(model), predicted(whole(tmp_path)))
    x, t = states(2, 3), model.process.model_time(1.5).float()
    alpha = model.process.alpha(model.process.time(1.5)).float()
    close(predicted(model), (alpha * x - (1 - alpha**2).sqrt() * theirs(alpha * x, t).sample) / alpha)
    assert {"config.json", f"{STEM}.safetensors", "scheduler_config.json"} <= set(model.facts["files_sha256"])


def test_a_published_transformer_under_its_older_name(tmp_path: Path) -> None:
    diffusers.DiTPipeline(transformer(), autoencoder(), ddim()).save_pretrained(tmp_path / "new")
    new = load_model({"type": "diffusers"}, tmp_path / "new")
    edit_json(tmp_path / "new" / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    edit_json(tmp_path / "new" / "transformer" / "config.json", _class_name="Transformer2DModel")
    old = load_model({"type": "diffusers"}, tmp_path / "new")
    x, labels = states(2, 4), torch.tensor([1, 5])
    assert torch.equal(*(m.denoiser(labels)(x, torch.tensor(1.5)) for m in (new, old)))


def remote(monkeypatch: pytest.MonkeyPatch, root: Path, cache: Path) -> list[list[str]]:
    """``root`` becomes the one repository of the hub; returns what is fetched, call by call."""
    fetched: list[list[str]] = []

    def snapshot(id: str, *, allow_patterns: list[str], ignore_patterns: list[str], **_: Any) -> str:
        names = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
        wanted = [n for n in names if any(fnmatch(n, p) for p in allow_patterns)]
        wanted = [n for n in wanted if not any(fnmatch(n, p) for p in ignore_patterns)]
        for name in wanted:
            (cache / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, cache / name)
        fetched.append(sorted(wanted))
        return str(cache)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    return fetched


@pytest.mark.parametrize("case", [*SAVED, "flat", "flat bin", "both"])
def test_every_layout_is_fetched_by_id(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if case.startswith("flat"):
        root = flat(tmp_path / "remote")
        if case == "flat bin":
            torch.save(load_file(root / f"{STEM}.safetensors"), root / f"{STEM}.bin")
            (root / f"{STEM}.safetensors").unlink()
    elif case == "both":
        root = ddpm_folder(tmp_path / "remote", UNET, ddim())
        for options in ({"variant": "fp16"}, {"safe_serialization": False}):
            UNET.save_pretrained(root / "unet", **options)
    else:
        root = saved(tmp_path / "remote", **SAVED[case])
    (root / "v1-5-pruned.safetensors").write_bytes(b"large, and of no use here")
    fetched = remote(monkeypatch, root, tmp_path / "cache")
    variant = SAVED.get(case, {}).get("variant")
    model = load_model({"type": "diffusers", "id": "a/b"} | ({"variant": variant} if variant else {}))
    assert torch.equal(predicted(model), predicted(whole(tmp_path)))
    assert not any("v1-5-pruned.safetensors" in names for names in fetched)
    if case == "both":
        assert [name for name in fetched[0] if STEM in name] == [f"unet/{STEM}.safetensors"] and len(fetched) == 1


def test_only_what_has_no_variant_is_fetched_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "remote"
    diffusers.DiTPipeline(transformer(), autoencoder(), ddim()).save_pretrained(root)
    transformer().save_pretrained(root / "transformer", variant="fp16")
    (root / "config.json").write_text("{}")  # which some repositories have, of something else
    fetched = remote(monkeypatch, root, tmp_path / "cache")
    load_model({"type": "diffusers", "id": "a/b", "variant": "fp16"})
    weights = {name for names in fetched for name in names if STEM in name}
    assert weights == {f"transformer/{STEM}.fp16.safetensors", f"vae/{STEM}.safetensors"} and len(fetched) == 3
    fetched.clear()
    load_model({"type": "diffusers", "id": "a/b"})
    assert len(fetched) == 1


def test_what_is_fetched_of_a_repository_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: 1 / 0)
    with pytest.raises(Error, match="cannot be fetched: division by zero; fetch the folders unet"):
        hub.folder("a/b", "abc", ["unet"])


@pytest.mark.parametrize(("size", "given", "shape"), [
    ((8, 16), None, (3, 8, 16)), ([16, 8], None, (3, 16, 8)), (None, 8, (3, 8, 8)), (None, [8, 12], (3, 8, 12)),
    (8, 16, (3, 16, 16)),
])  # fmt: skip
def test_sizes_of_samples(size: Any, given: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    root = ddpm_folder(tmp_path / "m", UNET, ddim())
    edit_json(root / "unet" / "config.json", sample_size=size)
    model = load_model({"type": "diffusers", "path": str(root), "sample_size": given})
    x = s4s.noise(0, range(2), model.shape).float()
    assert model.shape == shape and model.denoiser(None)(x, torch.tensor(1.0)).shape == (2, *shape)


def test_shift_factor_is_what_the_pipeline_makes_of_it(tmp_path: Path) -> None:
    vae = autoencoder()
    vae.register_to_config(shift_factor=0.5)
    diffusers.DiTPipeline(transformer(), vae, ddim()).save_pretrained(tmp_path / "dit")
    z = states(2, 4)
    scaled = z / vae.config.scaling_factor
    close(load_model({"type": "diffusers"}, tmp_path / "dit").decode(z), vae.decode(scaled).sample)
    edit_json(tmp_path / "dit" / "model_index.json", _class_name="MyPipeline")
    close(load_model({"type": "diffusers"}, tmp_path / "dit").decode(z), vae.decode(scaled + 0.5).sample)


def test_stable_diffusion_of_other_sizes_and_variants(stable: Any, tmp_path: Path) -> None:
    root, pipe = tmp_path / "sd", stable[1]
    shutil.copytree(stable[0], root)
    spec = {"type": "stable-diffusion", "prompts": str(listed(tmp_path, 2)), "n_prompts": 2, "path": str(root)}
    edit_json(root / "unet" / "config.json", sample_size=[8, 16])
    model = load_model(spec)
    x = s4s.noise(0, range(2), model.shape).float()
    assert model.shape == (4, 8, 16)
    assert model.denoiser(model.condition(range(2)))(x, torch.tensor(1.0)).shape == (2, 4, 8, 16)
    edit_json(root / "unet" / "config.json", sample_size=None)
    with pytest.raises(Error, match=r"unet/config\.json: does not say its sample_size; set sample_size"):
        load_model(spec)
    assert load_model(spec | {"sample_size": [16, 8]}).shape == (4, 16, 8)
    pipe.save_pretrained(half := tmp_path / "half", variant="fp16")
    named = spec | {"path": str(half)}
    for read in (load_model, lambda spec: stable_diffusion.check(spec, half)):
        with pytest.raises(Error, match="of the variant fp16 alone: set variant: fp16"):
            read(named)
    two = [load_model(named | {"variant": "fp16"}), load_model(spec | {"path": str(stable[0])})]
    z = states(2, 4)
    assert torch.equal(*(m.condition(range(2)) for m in two))
    assert torch.equal(*(m.denoiser(m.condition(range(2)))(z, torch.tensor(1.0)) for m in two))
    assert torch.equal(*(m.decode(z) for m in two))


def broken(root: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A folder of shards, its index changed."""
    path = root / "unet" / f"{STEM}.bin.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))
    return root


@pytest.mark.parametrize("lost", ["file", "index", "entry", "outside"])
def test_damaged_shards(lost: str, tmp_path: Path) -> None:
    root = saved(tmp_path / "m", max_shard_size="20KB", safe_serialization=False)
    shards = sorted((root / "unet").glob("*.bin"))
    if lost == "file":
        shards[0].unlink()
    elif lost == "index":
        (root / "unet" / f"{STEM}.bin.index.json").unlink()
    elif lost == "entry":
        broken(root, lambda names: names.pop("conv_in.weight"))
        UNET.save_pretrained(tmp_path / "other", max_shard_size="20KB", safe_serialization=False)
        first = torch.load(shards[0], weights_only=True)
        torch.save({key: value for key, value in first.items() if key != "conv_in.weight"}, shards[0])
    else:
        broken(root, lambda names: names.update({"conv_in.weight": "../scheduler/x.bin"}))
    with pytest.raises(Error) as caught:
        load_model({"type": "diffusers", "path": str(root)})
    assert str(caught.value).isprintable() and "unet" in str(caught.value)
