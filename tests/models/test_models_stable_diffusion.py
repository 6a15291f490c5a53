"""Stable Diffusion against diffusers' own pipeline; prompts, guidance, the layout of 2022."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import CANARY, Gadget
from pipelines import (
    close,
    diffusers,
    edit_json,
    listed,
    states,
)
from safetensors.torch import load_file
from stable import stable as stable

import s4s
from s4s.errors import Error
from s4s.models import load_model

transformers = pytest.importorskip("transformers")


def test_stable_diffusion_agrees_with_its_pipeline(stable: Any, tmp_path: Path) -> None:
    root, pipe = stable
    prompts = listed(tmp_path, 3)
    model = load_model({"type": "stable-diffusion", "prompts": str(prompts), "n_prompts": 3}, root)
    lines = prompts.read_text().removesuffix("\n").split("\n")
    x = states(3, 4)
    kwargs = {"num_inference_steps": 4, "guidance_scale": 7.5, "latents": x}
    latents = pipe(lines, output_type="latent", **kwargs).images
    images = pipe(lines, output_type="pt", **kwargs).images
    times = [*((pipe.scheduler.timesteps + 1) / 1000).tolist(), 1 / 1000]
    levels = model.process.level(torch.tensor(times, dtype=torch.float64))
    denoise = model.denoiser(model.condition(range(3)))
    found = s4s.sample(s4s.solver("ddim", levels), denoise, model.process.to_edm(x.double(), levels[0]))
    found = model.process.from_edm(found, levels[-1])
    close(found, latents)
    close((model.decode(found) / 2 + 0.5).clamp(0, 1), images)


def test_stable_diffusion_keeps_real_times_and_one_call(stable: Any, tmp_path: Path, monkeypatch: Any) -> None:
    root, _ = stable
    model = load_model(
        {"type": "stable-diffusion", "prompts": str(listed(tmp_path, 2)), "n_prompts": 2, "guidance": 3.0}, root
    )
    seen: list[Any] = []
    forward = diffusers.UNet2DConditionModel.forward
    monkeypatch.setattr(
        diffusers.UNet2DConditionModel,
        "forward",
        lambda self, x, t, **k: seen.append((len(x), t, k)) or forward(self, x, t, **k),
    )
    embeddings = model.condition(range(2))
    x = states(4, 4).requires_grad_()
    model.denoiser(embeddings)(x, model.process.level(0.50037)).sum().backward()
    (size, times, options) = seen[0]
    assert len(seen) == 1 and size == 8 and times.dtype == torch.float32
    assert times.tolist() == pytest.approx([499.37] * 8)
    assert torch.equal(options["encoder_hidden_states"][4:], torch.cat([embeddings, embeddings]))
    assert x.grad is not None and (x.grad != 0).any()


def test_embeddings_depend_on_the_index_alone(stable: Any, tmp_path: Path) -> None:
    model = load_model({"type": "stable-diffusion", "prompts": str(listed(tmp_path, 20)), "n_prompts": 20}, stable[0])
    whole = model.condition(range(45))
    assert whole is not None and whole.shape == (45, 12, 8)
    pieces = [model.condition(range(a, b)) for a, b in ((0, 1), (1, 15), (15, 33), (33, 45))]
    assert torch.equal(torch.cat(pieces), whole)  # type: ignore[arg-type]
    assert torch.equal(whole[20:40], whole[:20]) and not torch.equal(whole[0], whole[1])


def test_more_samples_than_prompts_are_on_record(stable: Any, tmp_path: Path) -> None:
    model = load_model({"type": "stable-diffusion", "prompts": str(listed(tmp_path, 4)), "n_prompts": 4}, stable[0])
    for indices, repeat in ((range(4), False), (range(6, 10), False), (range(5), True), (range(50_000, 50_005), True)):
        facts = model.facts_of(indices)
        assert facts["prompts_repeat"] is repeat and facts["prompts"]["rule"].endswith(
            "sample i gets prompt i modulo n"
        )
        assert json.loads(json.dumps(facts)) == facts
    assert "prompts_repeat" not in model.facts


@pytest.mark.parametrize(
    ("key", "value"),
    [("scaling_factor", None), ("scaling_factor", "0.18"), ("scaling_factor", 0.0), ("shift_factor", "0.1")],
)
def test_a_decoder_without_its_scale_is_refused(stable: Any, tmp_path: Path, key: str, value: Any) -> None:
    root = Path(shutil.copytree(stable[0], tmp_path / "folder"))
    edit_json(root / "vae" / "config.json", **{key: value})
    prompts = str(listed(tmp_path, 1))
    with pytest.raises(Error, match=f"decoder's {key} = {value!r} must be a number"):
        load_model({"type": "stable-diffusion", "prompts": prompts, "n_prompts": 1}, root)


def test_stable_diffusion_says_what_it_is(stable: Any, tmp_path: Path) -> None:
    spec = {"type": "stable-diffusion", "prompts": str(listed(tmp_path, 2)), "n_prompts": 2, "dtype": "bfloat16"}
    v15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    for id, version in ((None, "v1.4"), (v15, "v1.5")):
        facts = load_model(spec | ({"id": id} if id else {}), stable[0]).facts
        assert facts["version"].startswith(version) and facts["licence"] == "CreativeML OpenRAIL-M"
        assert facts["prompts"]["n"] == 2 and facts["prompts"]["known_as"] is None
        assert json.loads(json.dumps(facts)) == facts
    with pytest.raises(Error, match=r"holds 2 captions; 3 are asked for"):
        load_model(spec | {"n_prompts": 3}, stable[0])
    damaged = tmp_path / "damaged"
    shutil.copytree(stable[0], damaged)
    shutil.rmtree(damaged / "tokenizer")
    with pytest.raises(Error, match="CLIPTokenizer"):
        load_model(spec, damaged)


def as_published(root: Path) -> None:
    """Rename the tensors to what was usual in 2022, and store them as pickles."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    file = root / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = {}
    for key, value in load_file(file).items():
        for ours, theirs in old.items():
            key = key.replace(f"attentions.0.{ours}.", f"attentions.0.{theirs}.")
        tensors[key] = value
    file.unlink()
    torch.save(tensors, root / "vae" / "diffusion_pytorch_model.bin")
    file = root / "text_encoder" / "model.safetensors"
    tensors = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in load_file(file).items()}
    file.unlink()
    tensors["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    torch.save(tensors, root / "text_encoder" / "pytorch_model.bin")


def test_the_layout_of_2022_loads_alike_and_its_pickles_run_nothing(
    stable: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "old"
    shutil.copytree(stable[0], root)
    as_published(root)
    spec = {"type": "stable-diffusion", "prompts": str(listed(tmp_path, 2)), "n_prompts": 2}
    new, old = load_model(spec, stable[0]), load_model(spec, root)
    assert torch.equal(new.condition(range(2)), old.condition(range(2)))  # type: ignore[arg-type]
    assert torch.equal(new.decode(states(1, 4)), old.decode(states(1, 4)))
    for part, name in (("vae", "diffusion_pytorch_model.bin"), ("text_encoder", "pytorch_model.bin")):
        honest = (root / part / name).read_bytes()
        torch.save({"evil": Gadget()}, root / part / name)
        with pytest.raises(Error, match=f"{part}/{name}: refused, refers to 'posix.system'"):
            load_model(spec, root)
        (root / part / name).write_bytes(honest)
    assert not (tmp_path / CANARY).exists()
