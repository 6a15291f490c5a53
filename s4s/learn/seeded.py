"""Generators of seeds that grow without bound: seeds are multiplied up on their way to a draw."""

from __future__ import annotations

import torch

SEEDS = 2**64  # that torch tells apart


def generator(seed: int) -> torch.Generator:
    """On the CPU, of a whole number of any size."""
    return torch.Generator().manual_seed(seed % SEEDS)
