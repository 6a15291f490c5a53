"""A Stable Diffusion pipeline of random weights, its tokenizer knowing single letters, as a fixture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pipelines import SIZES, autoencoder, ddim, diffusers

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def stable(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    root = tmp_path_factory.mktemp("stable")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    names = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    source = root / "words"
    source.mkdir()
    (source / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    (source / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(source, model_max_length=12)
    torch.manual_seed(3)
    config = transformers.CLIPTextConfig(
        vocab_size=len(names), hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=12, bos_token_id=72, eos_token_id=73, pad_token_id=73,
    )  # fmt: skip
    text = transformers.CLIPTextModel(config).eval()
    kinds = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    net = diffusers.UNet2DConditionModel(
        **SIZES, **kinds, in_channels=4, out_channels=4, cross_attention_dim=8, attention_head_dim=2
    )
    scheduler = ddim(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1)
    pipe = diffusers.StableDiffusionPipeline(
        vae=autoencoder(), text_encoder=text, tokenizer=tokenizer, unet=net, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(root)
    return root, pipe
