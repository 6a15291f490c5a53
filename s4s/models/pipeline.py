"""Any loaded diffusers pipeline as a model, by its own code: asked for one step, with a scheduler that only listens.

Nothing of the pipeline is rebuilt, so text encoders, guidance, LoRAs, control networks, packing and micro-conditioning
are its own. Prompts are encoded once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error, choose
from s4s.models.model import Model, stacked
from s4s.models.scheduler import schedule

OURS = ("latents", "num_inference_steps", "timesteps", "sigmas", "generator", "output_type", "return_dict",
        "num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt", "callback",
        "callback_on_step_end")  # fmt: skip
NEEDED = ("latents", "num_inference_steps", "output_type", "return_dict")


def pipeline_denoiser(pipe: Any, *, t_min: float | None = None, t_max: float | None = None, **call: Any) -> Model:
    """The model that a pipeline samples from when it is called with ``**call``.

    Args:
        pipe: a loaded pipeline that takes ``latents``. Between calls it is as it was.
        t_min, t_max: ends of sampling in the process's time; by default the process's own.
        call: what the pipeline is called with: ``prompt`` (one or a list), ``guidance_scale``, ``height`` and so on. Of
            lists and tensors with a row for each prompt, or for each row of ``prompt_embeds``, a sample gets its own.

    Returns:
        A ``Model``. Sample ``i`` has prompt ``i`` modulo their number; its conditions are numbers of prompts.
        ``decode`` gives what the pipeline makes of last latents, images and videos in [-1, 1].

    Raises:
        Error: a pipeline that does not start from latents, an argument it does not have or that is not the caller's, a
            scheduler whose process is not known.
    """
    _check(pipe, call)
    probe = _Probing(pipe, call)
    config = pipe.scheduler.config
    process, prediction, scale = schedule(type(pipe.scheduler).__name__, config, t_min, t_max)
    shape = probe.shape(scale * process.model_time(process.levels[1]).item())

    def denoiser(condition: Tensor | None) -> Any:
        if condition is None:
            raise Error("this model needs a condition: model.condition(indices), numbers of prompts")

        def net(x: Tensor, model_time: Tensor) -> Tensor:
            rows = stacked(condition, x)
            assert rows is not None
            return probe.answers(x, scale * model_time, rows.tolist())

        return process.denoiser(net, prediction)

    def rows(indices: range) -> Tensor:
        return torch.tensor([i % probe.count for i in indices], dtype=torch.int64)

    facts = {"type": "pipeline", "class": type(pipe).__name__, "prediction": prediction,
             "prompts": {"n": probe.count}} | {"call": _plain(call)}  # fmt: skip
    return Model(process, shape, denoiser, probe.decoded, rows, facts)


class _Heard(Exception):
    """Ends a call of the pipeline once it has said what was asked."""


class _Listener:
    """In the place of a scheduler: one step at a time that is asked for, or none; keeps what reaches ``step``."""

    order, init_noise_sigma = 1, 1.0

    def __init__(self, config: Any, times: list[float]) -> None:
        self.config, self.times = config, times
        self.timesteps = torch.tensor(times, dtype=torch.float32)

    def set_timesteps(
        self, num_inference_steps: Any = None, device: Any = None, sigmas: Any = None, mu: Any = None, **rest: Any
    ) -> None:
        self.timesteps = self.sigmas = torch.tensor(self.times, dtype=torch.float32, device=device)

    def set_begin_index(self, begin_index: int = 0) -> None:
        pass

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        return sample

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **options: Any) -> Any:
        self.output, self.sample = model_output, sample
        raise _Heard


class _Probing:
    """Calls of one pipeline, for chosen rows of its prompts."""

    def __init__(self, pipe: Any, call: Mapping[str, Any]) -> None:
        self.pipe, self.call, self.config = pipe, dict(call), pipe.scheduler.config
        self.run = inspect.unwrap(type(pipe).__call__)  # without the no_grad around it
        net = getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)
        self.dtype: torch.dtype = pipe.dtype if net is None else net.dtype
        first = self.call.get("prompt", self.call.get("prompt_embeds"))
        self.count = 1 if first is None or isinstance(first, str) else len(first)
        for key, value in self.call.items():
            if "prompt" in key and isinstance(value, str):  # one for all of them
                self.call[key] = [value] * self.count
        self.encoded = self._encode() if "prompt" in self.call and hasattr(pipe, "encode_prompt") else None

    def answers(self, x: Tensor, times: Tensor, rows: list[int]) -> Tensor:
        """What the network says of states [B, ...] at times [B]: a call for each different time."""
        out = torch.empty_like(x) if len(times.unique()) > 1 else None
        for t in times.unique().tolist():
            of = (times == t).nonzero()[:, 0]
            heard = self.heard(t, [rows[i] for i in of.tolist()], latents=x[of].to(self.dtype))
            answer = _half(heard.output, heard.sample).to(x.dtype)
            if out is None:
                return answer
            out = out.index_copy(0, of, answer)
        assert out is not None
        return out

    def shape(self, first_time: float) -> tuple[int, ...]:
        """Of one sample's latents; tries the pipeline as it will be used."""
        with torch.no_grad():
            heard = self.heard(first_time, [0])
        return tuple(heard.sample.shape[1:])

    def heard(self, t: float, rows: list[int], **latents: Tensor) -> _Listener:
        listener = _Listener(self.config, [t])
        try:
            self._called(listener, rows, output_type="latent", **latents)
        except _Heard:
            return listener
        raise Error(f"{type(self.pipe).__name__} makes no step with its scheduler, so its network cannot be asked")

    @torch.no_grad()
    def decoded(self, x: Tensor) -> Tensor:
        """Last latents by the pipeline's own way out: a call without a step."""
        listener = _Listener(self.config, [])
        out = self._called(listener, [0] * len(x), output_type="pt", latents=x.to(self.dtype))[0]
        made = torch.as_tensor(out).to(x.dtype)
        return 2 * made - 1 if made.ndim >= 4 else made

    def _called(self, listener: _Listener, rows: list[int], **options: Any) -> Any:
        call = {key: _rows(value, rows, self.count) for key, value in self.call.items()}
        steps = {"num_inference_steps": 1, "return_dict": False}
        encoder = {} if self.encoded is None else {"encode_prompt": self._recalled(rows)}
        with _attributes(self.pipe, scheduler=listener, progress_bar=_silent, **encoder):
            return self.run(self.pipe, **call | steps | options)

    def _encode(self) -> list[tuple[Any, bool]]:
        """What ``encode_prompt`` makes of all prompts, and which parts of it have a row for each.

        Told from those that have not by another number of prompts.
        """
        all_of, others = self._encodings([*range(self.count)]), self._encodings([0] if self.count > 1 else [0, 0])
        return [
            (a, isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape[:1] != b.shape[:1])
            for a, b in zip(all_of, others, strict=True)
        ]

    @torch.no_grad()
    def _encodings(self, rows: list[int]) -> tuple[Any, ...]:
        """What ``encode_prompt`` returns when the pipeline calls it."""
        encode, found = self.pipe.encode_prompt, []

        def once(*args: Any, **options: Any) -> Any:
            found.append(encode(*args, **options))
            raise _Heard

        call = {key: _rows(value, rows, self.count) for key, value in self.call.items()}
        with _attributes(self.pipe, encode_prompt=once):
            try:
                self.run(self.pipe, **call | {"num_inference_steps": 1})
            except _Heard:
                return found[0] if isinstance(found[0], tuple) else (found[0],)
        raise Error(f"{type(self.pipe).__name__} did not encode its prompt before its first step")

    def _recalled(self, rows: list[int]) -> Callable[..., Any]:
        """``encode_prompt`` from memory."""
        parts = tuple(value[rows] if own else value for value, own in self.encoded or ())
        return lambda *args, **options: parts if len(parts) > 1 else parts[0]


@contextmanager
def _attributes(pipe: Any, **values: Any) -> Iterator[None]:
    """A pipeline with other attributes of its own, for a while."""
    before = {key: pipe.__dict__[key] for key in values if key in pipe.__dict__}
    pipe.__dict__.update(values)
    try:
        yield
    finally:
        for key in values:
            del pipe.__dict__[key]
        pipe.__dict__.update(before)


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


def _rows(value: Any, rows: list[int], count: int) -> Any:
    """Of what has a row for each prompt, those of the samples; anything else as it is."""
    if isinstance(value, Tensor) and value.ndim and len(value) == count:
        return value[rows]
    if isinstance(value, list) and len(value) == count:
        return [value[i] for i in rows]
    return value


def _half(output: Tensor, sample: Tensor) -> Tensor:
    """The prediction of a network that may predict a variance beside it."""
    if output.shape == sample.shape:
        return output
    if output.ndim > 1 and output.shape[1] == 2 * sample.shape[1]:
        return output.chunk(2, 1)[0]
    raise Error(f"the network's output has shape {list(output.shape)}, the latents {list(sample.shape)}")


def _check(pipe: Any, call: Mapping[str, Any]) -> None:
    name, known = type(pipe).__name__, inspect.signature(type(pipe).__call__).parameters
    missing = [key for key in NEEDED if key not in known]
    if missing or not hasattr(pipe, "scheduler"):
        raise Error(f"{name} takes no {missing[0] if missing else 'scheduler'}, so its network cannot be asked; "
                    "s4s.load_model reads saved pipelines of unconditional and class-conditional networks")  # fmt: skip
    if "strength" in known:
        raise Error(f"{name} starts from an image; load the pipeline that starts from noise")
    for key in call:
        if key in OURS:
            raise Error(f"{key}= is set by the solver; leave it out")
        if key not in known:
            raise choose(f"argument of {name}", key, [key for key in known if key not in (*OURS, "self", "kwargs")])


def _plain(call: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in call.items() if isinstance(value, str | int | float | bool)}
