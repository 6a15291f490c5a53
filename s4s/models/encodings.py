"""What a pipeline made of its prompts, once, and the rows of it that belong to some of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NEAR = 1e-2  # relative; the same prompt encoded beside others differs by less, other prompts by more


@dataclass(frozen=True)
class Part:
    """One thing that an encoder returns: ``blocks`` times a row for each of ``count`` prompts, or none (0 blocks)."""

    value: Any
    blocks: int
    count: int

    def rows(self, rows: list[int]) -> Any:
        if not self.blocks:
            return self.value
        return _taken(self.value, [block * self.count + row for block in range(self.blocks) for row in rows])


@dataclass(frozen=True)
class Encodings:
    """The results of each call of ``encode_prompt`` in one call of a pipeline."""

    calls: tuple[tuple[Part, ...], ...]
    single: tuple[bool, ...]  # whether the call returned one thing and no tuple

    @classmethod
    def of(cls, encode: Callable[[list[int]], list[Any]], count: int) -> Encodings | None:
        """By which parts grow with the number of prompts; None where that does not tell, or nothing is encoded.

        Args:
            encode: numbers of prompts -> the results of every call of the encoder.
            count: of prompts.
        """
        more, fewer = sorted(([*range(count)], [0] if count > 1 else [0, 0]), key=len, reverse=True)
        most, few = encode(more), encode(fewer)
        all_of = most if count > 1 else few
        single = tuple(not isinstance(result, tuple) for result in all_of)
        calls = []
        for big, small, own in zip(most, few, all_of, strict=True):
            parts = [
                None if (blocks := _blocks(a, b, len(more))) is None else Part(value, blocks, count)
                for a, b, value in zip(_parts(big), _parts(small), _parts(own), strict=True)
            ]
            if None in parts:
                return None
            calls.append(tuple(part for part in parts if part is not None))
        return cls(tuple(calls), single) if calls else None

    def results(self, rows: list[int]) -> list[Any]:
        """What the encoder returns for some of the prompts, call by call."""
        every = [tuple(part.rows(rows) for part in parts) for parts in self.calls]
        return [values[0] if single else values for values, single in zip(every, self.single, strict=True)]


def recalled(results: list[Any]) -> Callable[..., Any]:
    """An ``encode_prompt`` from memory, for one call of a pipeline."""
    left = iter(results)
    return lambda *args, **options: next(left)


def chosen(value: Any, rows: list[int], count: int) -> Any:
    """Of an argument with a row for each prompt, those of the samples; anything else as it is."""
    if isinstance(value, Tensor) and not value.ndim:
        return value
    return _taken(value, rows) if isinstance(value, Tensor | list) and len(value) == count else value


def _blocks(big: Any, small: Any, count: int) -> int | None:
    """Rows for each of ``count`` prompts in ``big``, where ``small`` has those of the first; None if they are mixed."""
    if _alike(big, small):
        return 0
    if isinstance(big, Tensor) and big.ndim and small is None and len(big) == count:
        return 1  # a mask, left out where it masks nothing
    if type(big) is not type(small) or not isinstance(big, Tensor | list):
        return None
    blocks = len(small)
    if len(big) != count * blocks:
        return None
    first = _taken(big, [block * count for block in range(blocks)])
    return blocks if blocks == 1 or _near(first, small) else None


def _alike(a: Any, b: Any) -> bool:
    """Whether a part is as large for one prompt as for several."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_alike, a, b))
    return type(a) is type(b) and not isinstance(a, tuple | dict)


def _near(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or a.shape != b.shape:
        return False
    return bool((a.double() - b.double()).norm() <= NEAR * b.double().norm())


def _taken(value: Any, indices: list[int]) -> Any:
    return (
        value[torch.tensor(indices, device=value.device)] if isinstance(value, Tensor) else [value[i] for i in indices]
    )


def _parts(result: Any) -> Sequence[Any]:
    return result if isinstance(result, tuple) else (result,)
