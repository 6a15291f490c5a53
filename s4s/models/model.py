"""What every pretrained model becomes: a process, a ``denoise`` for any condition, a decoder, and facts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from s4s.errors import Error, choose, require_choice
from s4s.guidance import apart
from s4s.models.plans import PLANS
from s4s.process import Process
from s4s.solver import Denoise
from s4s.values import whole

DTYPES = {"float32": torch.float32, "tf32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
RUN: dict[str, Any] = {"dtype": "float32", "channels_last": False, "compile": False}  # of every type: how it runs

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""``network(x_t, model_time, condition)``: x_t [B, ...] in the network's dtype, model_time [B], condition [B, ...]."""
Condition = Callable[[range], Tensor | None]
Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class Model:
    """A frozen pretrained model.

    Args:
        process: its noise process; levels and states of everything below are in EDM coordinates.
        shape: of the state of one sample, without the batch.
        denoiser: condition [B, ...] (None for an unconditional model) -> ``denoise(x, sigma) -> x_0``. Guidance is
            inside, as one batched call that counts as one evaluation. ``denoise`` takes batches of B samples or k
            stacked copies of them, in any floating-point dtype, and returns that dtype.
        decode: last state [B, ...] -> images [B, C, H, W], nominally in [-1, 1].
        condition: consecutive sample indices -> their conditions; a row depends on its index alone.
        facts: JSON-able: weights and their SHA-256, dtype, licence, revision, guidance, class plan.
    """

    process: Process
    shape: tuple[int, ...]
    denoiser: Callable[[Tensor | None], Denoise]
    decode: Callable[[Tensor], Tensor]
    condition: Condition
    facts: Mapping[str, Any] = field(default_factory=dict)

    def facts_of(self, indices: range) -> dict[str, Any]:
        """The facts that belong beside a number from these samples."""
        return facts_of(self.facts, len(indices))


def facts_of(facts: Mapping[str, Any], n: int) -> dict[str, Any]:
    """A model's facts beside a number from its first ``n`` samples.

    A model with prompts adds ``prompts_repeat``: whether some prompt has more than one of the samples, as it has when
    there are more samples than prompts.
    """
    prompts = facts.get("prompts")
    return dict(facts) | ({} if prompts is None else {"prompts_repeat": n > prompts["n"]})


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho & Salimans 2022): ``null + scale * (conditional - null)``.

    Args:
        scale: 1 is the conditional model alone.
        null: [1, ...] the condition that means "none".
    """

    scale: float
    null: Tensor

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "scale", float(self.scale))
        except (TypeError, ValueError):
            object.__setattr__(self, "scale", math.nan)
        if not math.isfinite(self.scale):
            raise Error("guidance must be a finite number: 1 is the conditional model alone")


def make_denoiser(
    process: Process,
    network: Network,
    prediction: str = "eps",
    *,
    dtype: torch.dtype | None = None,
    conditional: bool = False,
    guidance: Guidance | None = None,
) -> Callable[[Tensor | None], Denoise]:
    """The ``denoiser`` of a ``Model`` from a raw network of its process.

    Args:
        process, network, prediction: as in ``Process.denoiser``.
        dtype: what the network is given; None is the state's own. The arithmetic around it follows the state.
        conditional: whether ``network`` needs a condition.
        guidance: None calls the network once with the condition; else with null and condition in one batch.
    """

    def denoiser(condition: Tensor | None) -> Denoise:
        if (condition is not None) != conditional:
            raise Error("this model needs a condition" if conditional else "this model is unconditional; give it None")
        on = _copies(condition, None if guidance is None else guidance.null)

        def net(x: Tensor, model_time: Tensor) -> Tensor:
            placed, null = on(x.device)
            rows, given = stacked(placed, x), x.to(dtype or x.dtype)
            if guidance is None or guidance.scale == 1 or rows is None or null is None:
                return network(given, model_time, rows).to(x.dtype)
            both = torch.cat([null.to(rows.dtype).expand_as(rows), rows])
            out = network(torch.cat([given, given]), model_time.repeat(2), both)
            without, with_ = out.to(x.dtype).chunk(2)
            return without + guidance.scale * (with_ - without)

        made = process.denoiser(net, prediction)
        if guidance is None or guidance.scale == 1:
            return made
        columns = _columns(network, on, dtype, lambda each: process.denoiser(each, prediction))
        return apart(made, columns, guidance.scale)

    return denoiser


def _columns(
    network: Network, on: Callable[[torch.device], Any], dtype: torch.dtype | None, make: Callable[[Any], Denoise]
) -> Callable[[Tensor, Tensor, bool], list[Tensor]]:
    """What tells the two outputs of a guided network apart: both from one call, or that with the condition alone.

    Args:
        on: device -> condition and null there.
        make: a network of states and times as a denoiser.
    """

    def told(x: Tensor, model_time: Tensor, both: bool) -> Tensor:
        placed, null = on(x.device)
        rows = stacked(placed, x[len(x) // 2 :] if both else x)
        assert rows is not None  # a model with guidance has conditions
        rows = torch.cat([null.to(rows.dtype).expand_as(rows), rows]) if both else rows
        return network(x.to(dtype or x.dtype), model_time, rows).to(x.dtype)

    alone, pair = (make(lambda x, model_time, both=both: told(x, model_time, both)) for both in (False, True))

    def columns(x: Tensor, sigma: Tensor, both: bool) -> list[Tensor]:
        if not both:
            return [alone(x, sigma)]
        without, with_ = pair(torch.cat([x, x]), sigma if sigma.ndim == 0 else torch.cat([sigma, sigma])).chunk(2)
        return [with_, without]

    return columns


def _copies(*tensors: Tensor | None) -> Callable[[torch.device], tuple[Tensor | None, ...]]:
    """The tensors on a device, copied there once: a copy a step would make the host wait for the device."""
    return cache(lambda device: tuple(None if value is None else value.to(device) for value in tensors))


def stacked(condition: Tensor | None, x: Tensor) -> Tensor | None:
    """One row of the condition for each row of x, which holds k copies of the batch one after the other."""
    if condition is None:
        return None
    copies, rest = divmod(len(x), max(len(condition), 1))
    if rest or not copies:
        raise Error(f"a condition of {len(condition)} samples does not fit a batch of {len(x)}")
    return condition.repeat(copies, *[1] * (condition.ndim - 1))


def classes(plan: str, numbers: range | list[int], seed: int = 0) -> Condition:
    """A class for every sample index, int64 [B].

    Args:
        plan: ``uniform`` deals the classes in turn, so any whole number of rounds has equal counts; ``random`` draws
            each from a counter-based generator keyed by (seed, index).
        numbers: the classes to use.
        seed: of the random plan.
    """
    require_choice("class plan", plan, PLANS)
    pick = PLANS[plan]
    return lambda indices: torch.tensor([numbers[pick(i, len(numbers), seed)] for i in indices], dtype=torch.int64)


def require_classes(spec: Mapping[str, Any], count: int) -> None:
    """Raise for a setting of classes, given in the ``model`` section of a config, that a network has no classes for."""
    given = next(
        (key for key in ("guidance", "null_class", "classes", "class_seed") if spec.get(key) is not None), None
    )
    if given and not count:
        raise Error(
            f"{given} = {spec[given]} needs a class-conditional model; this one has no classes, so leave it out"
        )
    for key in ("null_class", "class_seed"):
        if spec.get(key) is not None:
            whole(spec[key], key, 0)
    if spec.get("class_seed") is not None and spec.get("classes") != "random":
        raise Error(f"class_seed = {spec['class_seed']} has no effect unless classes is random; leave it out")


def unconditional(indices: range) -> None:
    """The ``condition`` of an unconditional model."""
    return None


def identity(x: Tensor) -> Tensor:
    """The ``decode`` of a model in pixel space."""
    return x


def in_chunks(decode: Callable[[Tensor], Tensor], size: int, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Decode ``size`` samples at a time in ``dtype``, and return the dtype of the state."""
    return lambda x: torch.cat([decode(part.to(dtype)).to(x.dtype) for part in x.split(size)])


def freeze(net: Net, device: str | torch.device, channels_last: bool = False) -> Net:
    """Evaluation mode, no weight gradients, on its device."""
    net.to(device)
    if channels_last:
        net.to(memory_format=torch.channels_last)
    return net.eval().requires_grad_(False)


def running(network: Network, chosen: Mapping[str, Any]) -> Network:
    """The network as the settings ``RUN`` have it run.

    ``tf32`` lets convolutions and matrix products of float32 round their factors to TensorFloat-32 on GPUs that have
    it; ``float32`` forbids it, which PyTorch alone does not for convolutions. Backward passes are outside and round as
    the process does. ``compile`` is ``torch.compile``; it makes a program for every kind of stride of its arguments, so
    that they are made alike: what a fit asks, with and without gradients, soon takes more programs than it keeps.
    """
    compiled: Network = torch.compile(network) if chosen["compile"] else network
    flags: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)

    def run(x: Tensor, model_time: Tensor, condition: Tensor | None) -> Tensor:
        before = [flag.allow_tf32 for flag in flags]
        try:
            for flag in flags:
                flag.allow_tf32 = chosen["dtype"] == "tf32"
            return compiled(x, model_time.contiguous() if chosen["compile"] else model_time, condition)
        finally:
            for flag, value in zip(flags, before, strict=True):
                flag.allow_tf32 = value

    return run


def settings(spec: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one model type, with defaults; unknown keys are errors."""
    for key in spec:
        if key != "type" and key not in defaults:
            raise choose(f"setting of a {spec.get('type')} model", key, defaults)
    made = {**defaults, **{key: value for key, value in spec.items() if key != "type"}}
    if made.get("dtype", "float32") not in DTYPES:
        raise choose("dtype", made["dtype"], DTYPES)
    for key in ("channels_last", "compile"):
        if not isinstance(made.get(key, False), bool):
            raise Error(f"{key} = {made[key]!r} must be true or false")
    return made
