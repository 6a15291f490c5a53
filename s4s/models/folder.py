"""The files of a folder in the diffusers layout, hashed. Nothing here imports torch: Snakemake asks on every start."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from s4s.records import content

PARTS = ("unet", "transformer", "vae", "vqvae", "text_encoder", "tokenizer", "scheduler")  # sub-folders that are read
KINDS = frozenset({".safetensors", ".bin", ".json", ".txt", ".model"})


def hashes(root: Path, parts: Iterable[str] = PARTS) -> dict[str, str]:
    """SHA-256 of every file of weights, configuration and vocabulary, of the folder itself and of some sub-folders."""
    folders = (root, *(root / part for part in parts))
    files = [path for folder in folders for path in sorted(folder.glob("*")) if path.suffix in KINDS and path.is_file()]
    return {str(path.relative_to(root)): content(path, exact=False) for path in files}
