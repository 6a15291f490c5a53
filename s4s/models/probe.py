"""A diffusers pipeline asked for one step of its own loop, with a scheduler that only listens.

The pipeline itself stays as it is: what runs is a twin, with the same components and its own scheduler.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from functools import cache, cached_property, lru_cache, partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from s4s.errors import Error
from s4s.models.encodings import Encodings, chosen, recalled
from s4s.models.told import hooked, moved, pipeline_slope
from s4s.values import without_variance

WALKS = ("_execution_device", "device", "dtype")  # properties that pass through all modules of a pipeline at every use
DRAWN = "randn_tensor"  # how pipelines without a ``latents`` argument start
COUNTS = ("prompt", "prompt_embeds", "class_labels")  # arguments with a row for each sample, the first given counts
SETS = 8  # of samples whose rows are kept: a fit asks for the same ones again and again


class Heard(Exception):
    """Ends a call of the pipeline once it has said what was asked."""


def _signed(method: Callable[..., Any]) -> Callable[..., Any]:
    """With its signature at hand: pipelines look at it in every call."""
    method.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]
    return method


class Listener:
    """In the place of a scheduler: one step at a time that is asked for, or none; keeps what reaches ``step``."""

    order, init_noise_sigma = 1, 1.0

    def __init__(self, config: Any, times: list[float]) -> None:
        self.config, self.times = config, times
        self.timesteps = torch.tensor(times, dtype=torch.float32)

    @_signed
    def set_timesteps(
        self, num_inference_steps: Any = None, device: Any = None, sigmas: Any = None, mu: Any = None, **rest: Any
    ) -> None:
        self.timesteps = self.sigmas = torch.tensor(self.times, dtype=torch.float32, device=device)

    def set_begin_index(self, begin_index: int = 0) -> None:
        pass

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        return sample

    @_signed
    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **options: Any) -> Any:
        self.output, self.sample = model_output, sample
        raise Heard


class Probe:
    """Calls of one pipeline, for chosen rows of its prompts."""

    def __init__(self, pipe: Any, call: Mapping[str, Any], first_time: float) -> None:
        self.pipe, self.call, self.config, self.first_time = pipe, dict(call), pipe.scheduler.config, first_time
        self.name = type(pipe).__name__
        self.run = inspect.unwrap(type(pipe).__call__)  # without the no_grad around it
        self.dtype: torch.dtype = pipe.dtype if self.net is None else self.net.dtype
        first = next((self.call[key] for key in COUNTS if self.call.get(key) is not None), None)
        self.count = len(first) if isinstance(first, list | tuple | Tensor) else 1
        for key, value in self.call.items():
            if "prompt" in key and isinstance(value, str):  # one for all of them
                self.call[key] = [value] * self.count
        self.known, self.rows = cache(self._known), lru_cache(SETS)(self._rows)
        self.encoded: Encodings | None = None
        if self._has_prompts():
            self.encoded = Encodings.of(self._encodings, self.count)

    def answers(self, x: Tensor, times: Tensor, rows: list[int]) -> Tensor:
        """What the network says of states [B, ...] at times [B]: a call for each different time."""
        different = times.detach().unique()
        if len(different) == 1:
            return self._answer(x, times, rows)
        out = torch.empty_like(x)
        for t in different:
            of = (times == t).nonzero()[:, 0]
            out = out.index_copy(0, of, self._answer(x[of], times[of], [rows[i] for i in of.tolist()]))
        return out

    def _answer(self, x: Tensor, times: Tensor, rows: list[int]) -> Tensor:
        """At times [B] that are all the same; their gradients are not."""
        moving = times.requires_grad and torch.is_grad_enabled()
        with moved(self.pipe, times, self.slope) if moving else nullcontext():
            heard = self.heard(times[0].item(), rows, x.to(self.dtype))
        out = without_variance(heard.output, heard.sample)
        if len(out) not in (len(x), 2 * len(x)):  # some pipelines step with both halves of guidance
            raise Error(f"{self.name} makes {len(out)} outputs of {len(x)} latents")
        return out[: len(x)].to(x.dtype)

    def shape(self) -> tuple[int, ...]:
        """Of one sample's latents; tries the pipeline as it will be used.

        Raises:
            Error: the pipeline fails when it is called, or steps from something else than the latents it is given.
        """
        with torch.no_grad():
            drawn = self.heard(self.first_time, [0]).sample[:1]
            heard = self.heard(self.first_time, [0], drawn)
        without_variance(heard.output, heard.sample)
        if heard.sample.shape[1:] != drawn.shape[1:] or not torch.equal(heard.sample[:1].to(drawn), drawn):
            raise Error(f"{self.name} changes the latents it is given before its first step, so its network cannot be "
                        "asked about states of ours")  # fmt: skip
        self.drawn = drawn
        return tuple(drawn.shape[1:])

    @cached_property
    def slope(self) -> float:
        """How the time that the networks are told moves with the scheduler's."""
        found: dict[float, float] = {}
        for share in (0.25, 0.5, 0.75):
            t = share * self.first_time
            with torch.no_grad(), suppress(Heard), hooked(self.pipe, partial(_keep, found, t)):
                self._called(Listener(self.config, [t]), [0], self.drawn, output_type="latent")
        return pipeline_slope(found) if len(found) == 3 else 0.0

    def heard(self, t: float, rows: list[int], latents: Tensor | None = None) -> Listener:
        listener = Listener(self.config, [t])
        try:
            self._called(listener, rows, latents, output_type="latent")
        except Heard:
            return listener
        raise Error(f"{self.name} makes no step with its scheduler, so its network cannot be asked")

    @torch.no_grad()
    def decoded(self, x: Tensor) -> Tensor:
        """Last latents by the pipeline's own way out: a call without a step."""
        listener = Listener(self.config, [])
        out = self._called(listener, [0] * len(x), x.to(self.dtype), output_type="pt")[0]
        made = torch.as_tensor(out)
        if not isinstance(out, Tensor) and made.ndim == 4:  # an array of pictures has its channels last
            made = made.permute(0, 3, 1, 2)
        return (2 * made - 1 if made.ndim >= 4 else made).to(x.dtype)

    def _called(self, listener: Listener, rows: list[int], latents: Tensor | None, **options: Any) -> Any:
        steps = {"num_inference_steps": 1, "return_dict": False}
        call, encodings = self.rows(*rows)
        encoder = {} if encodings is None else {"encode_prompt": recalled(encodings)}
        twin = self._twin(scheduler=listener, progress_bar=_silent, **encoder)
        if not self.draws:
            given = {} if latents is None else {"latents": latents}
            return self.run(twin, **call | steps | options | given)
        size = {"batch_size": len(rows)} if "batch_size" in self.parameters else {}
        run = self.run if latents is None else _starting_from(self.run, latents)
        return run(twin, **call | steps | {"output_type": "np"} | size)

    def _rows(self, *rows: int) -> tuple[dict[str, Any], list[Any] | None]:
        """Of what has a row for each prompt, in the call and in its encodings, those of the samples."""
        call = {key: chosen(value, [*rows], self.count) for key, value in self.call.items()}
        return call, None if self.encoded is None else self.encoded.results([*rows])

    @cached_property
    def parameters(self) -> Mapping[str, Any]:
        return inspect.signature(type(self.pipe).__call__).parameters

    @cached_property
    def draws(self) -> bool:
        """Whether the pipeline draws its first state by itself, and takes no ``latents``."""
        return "latents" not in self.parameters

    @property
    def net(self) -> Any:
        return network_of(self.pipe)

    def _has_prompts(self) -> bool:
        given = any(self.call.get(key) is not None for key in ("prompt", "prompt_embeds"))
        return given and hasattr(self.pipe, "encode_prompt")

    @torch.no_grad()
    def _encodings(self, rows: list[int]) -> list[Any]:
        """What every call of ``encode_prompt`` returns before the pipeline comes to its steps."""
        encode, found = self.pipe.encode_prompt, []

        def kept(*args: Any, **options: Any) -> Any:
            found.append(encode(*args, **options))
            return found[-1]

        twin = self._twin(scheduler=Listener(self.config, [0.0]), encode_prompt=kept, progress_bar=_enough)
        try:
            call = {key: chosen(value, rows, self.count) for key, value in self.call.items()}
            self.run(twin, **call | {"num_inference_steps": 1, "output_type": "latent"})
        except Heard:
            return found
        raise Error(f"{self.name} makes no step with its scheduler, so its network cannot be asked")

    def _twin(self, **values: Any) -> Any:
        """The pipeline as it is now, with other attributes of its own."""
        kind: Any = type(self.pipe)
        twin = object.__new__(_quick(kind))
        twin.__dict__.update(self.pipe.__dict__, **values, _probe=self)
        return twin

    def found(self, key: str) -> Any:
        """A property of the pipeline that passes through all its modules, as long as they stay where they are."""
        net = self.net
        if net is None or not isinstance(net, nn.Module):
            return getattr(self.pipe, key)
        first = next(net.parameters())
        return self.known(key, first.device, first.dtype)

    def _known(self, key: str, *_: Any) -> Any:
        return getattr(self.pipe, key)


def network_of(pipe: Any) -> Any:
    """The network that a pipeline asks at every step; None where it has another name."""
    net = getattr(pipe, "transformer", None)  # a compiled one is neither true nor false
    return getattr(pipe, "unet", None) if net is None else net


@cache
def _quick(kind: Any) -> Any:
    """A pipeline's class that asks the probe for what passes through all modules."""
    walks = {key: property(partial(_asked, key=key)) for key in WALKS if hasattr(kind, key)}
    return type(kind.__name__, (kind,), walks | {"__module__": kind.__module__})


def _keep(found: dict[float, float], t: float, told: Tensor, rows: int) -> Tensor:
    """Note what a network is told, in place of asking it."""
    found[t] = told.double().mean().item()
    raise Heard


def _asked(twin: Any, key: str) -> Any:
    return twin._probe.found(key)


def _starting_from(run: Any, latents: Tensor) -> Any:
    """The pipeline's function with a first state of ours where it draws one."""

    def drawn(shape: Any, *args: Any, **options: Any) -> Tensor:
        if tuple(shape) != tuple(latents.shape):
            raise Error(f"latents have shape {list(latents.shape)}, the pipeline starts from {list(shape)}")
        return latents

    made = FunctionType(
        run.__code__, {**run.__globals__, DRAWN: drawn}, run.__name__, run.__defaults__, run.__closure__
    )
    made.__kwdefaults__ = run.__kwdefaults__
    return made


class _Bar:
    """What pipelines do with a progress bar."""

    def __init__(self, iterable: Any) -> None:
        self.iterable = iterable

    def __iter__(self) -> Iterator[Any]:
        return iter(self.iterable)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, n: int = 1) -> None:
        pass


def _silent(iterable: Any = None, total: Any = None) -> _Bar:
    return _Bar(iterable)


def _enough(iterable: Any = None, total: Any = None) -> _Bar:
    raise Heard
