"""Tiny pipelines with text encoders, random weights and words of single letters, as folders on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pipelines import autoencoder, diffusers, sharper
from tiny import TINY

transformers = pytest.importorskip("transformers")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
LENGTH = 24  # tokens of a prompt


def clip_tokenizer(folder: Path) -> Any:
    names = [*LETTERS, *(f"{c}</w>" for c in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=LENGTH)


def t5_tokenizer() -> Any:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    vocab = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {c: k + 3 for k, c in enumerate(LETTERS)}
    made = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=LENGTH, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def clip(kind: str) -> Any:
    torch.manual_seed(21)
    config = transformers.CLIPTextConfig(
        vocab_size=2 * len(LETTERS) + 2, hidden_size=8, intermediate_size=8, num_hidden_layers=2, projection_dim=8,
        num_attention_heads=2, max_position_embeddings=LENGTH, bos_token_id=72, eos_token_id=73, pad_token_id=73,
    )  # fmt: skip
    return getattr(transformers, kind)(config).eval()


def t5() -> Any:
    torch.manual_seed(22)
    return transformers.T5EncoderModel(transformers.T5Config(
        vocab_size=len(LETTERS) + 3, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2,
    )).eval()  # fmt: skip


def sdxl(folder: Path, factor: float = 1.0) -> Path:
    """SDXL with its own scheduler, Euler."""
    torch.manual_seed(4)
    base = TINY["SDXL"]().pipe
    net = diffusers.UNet2DConditionModel.from_config(
        {**base.unet.config, "cross_attention_dim": 16, "projection_class_embeddings_input_dim": 6 * 4 + 8}
    ).eval()
    own = diffusers.EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, timestep_spacing="leading"
    )
    words = clip_tokenizer(folder / "words")
    pipe = diffusers.StableDiffusionXLPipeline(
        autoencoder(), clip("CLIPTextModel"), clip("CLIPTextModelWithProjection"), words, words, sharper(net, factor),
        own, add_watermarker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder / "sdxl")
    return folder / "sdxl"


def flux(folder: Path, factor: float = 1.0) -> Path:
    """Flux with its own scheduler, flow matching with a shift by size."""
    case = TINY["Flux"]()
    pipe = diffusers.FluxPipeline(
        case.pipe.scheduler, case.pipe.vae, clip("CLIPTextModel"), clip_tokenizer(folder / "words"), t5(),
        t5_tokenizer(), sharper(case.net, factor),
    )  # fmt: skip
    pipe.save_pretrained(folder / "flux")
    return folder / "flux"


def dit(folder: Path) -> Path:
    TINY["DiT"]().pipe.save_pretrained(folder)
    return folder


def wan(folder: Path) -> Path:
    """A pipeline of videos."""
    case = TINY["Wan"]()
    torch.manual_seed(23)
    words = transformers.UMT5EncoderModel(transformers.UMT5Config(
        vocab_size=len(LETTERS) + 3, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2,
    )).eval()  # fmt: skip
    pipe = diffusers.WanPipeline(t5_tokenizer(), words, case.pipe.vae, case.pipe.scheduler, case.net)
    pipe.save_pretrained(folder / "wan")
    return folder / "wan"
