"""Any loaded diffusers pipeline as a model, by its own code: asked for one step, with a scheduler that only listens.

Nothing of the pipeline is rebuilt, so text encoders, guidance, LoRAs, control networks, packing and micro-conditioning
are its own. Prompts are encoded once.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error, choose
from s4s.models.model import Model, stacked
from s4s.models.probe import DRAWN, Probe
from s4s.models.scheduler import schedule

OURS = ("latents", "num_inference_steps", "timesteps", "sigmas", "generator", "output_type", "return_dict",
        "batch_size", "num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt", "callback",
        "callback_on_step_end")  # fmt: skip
NEEDED = ("latents", "num_inference_steps", "output_type", "return_dict")


def pipeline_denoiser(pipe: Any, *, t_min: float | None = None, t_max: float | None = None, **call: Any) -> Model:
    """The model that a pipeline samples from when it is called with ``**call``.

    Args:
        pipe: a loaded pipeline; it stays as it is.
        t_min, t_max: ends of sampling in the process's time; by default the process's own.
        call: what the pipeline is called with: ``prompt`` (one or a list), ``guidance_scale``, ``height`` and so on. Of
            lists and tensors with a row for each prompt, or for each row of ``prompt_embeds`` or ``class_labels``, a
            sample gets its own.

    Returns:
        A ``Model``. Sample ``i`` has prompt ``i`` modulo their number; its conditions are numbers of prompts.
        ``decode`` gives what the pipeline makes of last latents, images and videos in [-1, 1].

    Raises:
        Error: a pipeline that does not start from noise or changes what it is given, that fails at its first step, an
            argument it does not have or that is not the caller's, a scheduler whose process is not known.
    """
    _check(pipe, call)
    process, prediction, scale = schedule(type(pipe.scheduler).__name__, pipe.scheduler.config, t_min, t_max)
    probe, shape = _tried(pipe, call, scale * process.model_time(process.levels[1]).item())

    def denoiser(condition: Tensor | None) -> Any:
        if condition is None:
            raise Error("this model needs a condition: model.condition(indices), numbers of prompts")
        given = condition.tolist() if isinstance(condition, Tensor) else condition
        if not isinstance(condition, Tensor) or not ((condition >= 0) & (condition < probe.count)).all():
            raise Error(f"a condition is a tensor of prompts' numbers, 0 to {probe.count - 1}, got {given!s:.60}")

        def net(x: Tensor, model_time: Tensor) -> Tensor:
            rows = stacked(condition, x)
            assert rows is not None
            return probe.answers(x, scale * model_time, rows.tolist())

        return process.denoiser(net, prediction)

    def rows(indices: range) -> Tensor:
        return torch.tensor([i % probe.count for i in indices], dtype=torch.int64)

    facts = {"type": "pipeline", "class": type(pipe).__name__, "prediction": prediction,
             "prompts": {"n": probe.count}} | {"call": recorded(call)}  # fmt: skip
    return Model(process, shape, denoiser, probe.decoded, rows, facts)


def _tried(pipe: Any, call: Mapping[str, Any], first_time: float) -> tuple[Probe, tuple[int, ...]]:
    """The probe of a pipeline, and the shape of a sample's latents, once it has taken a step."""
    try:
        probe = Probe(pipe, call, first_time)
        return probe, probe.shape()
    except Error:
        raise
    except Exception as error:
        text = " ".join(str(error).split()) or "no message"
        raise Error(f"{type(pipe).__name__} fails when it is asked for one step with these arguments: "
                    f"{type(error).__name__}: {text}") from error  # fmt: skip


def _check(pipe: Any, call: Mapping[str, Any]) -> None:
    name, run = type(pipe).__name__, inspect.unwrap(type(pipe).__call__)
    known = inspect.signature(run).parameters
    missing = [key for key in NEEDED if key not in known]
    if missing == ["latents"] and DRAWN in run.__code__.co_names:  # it draws its own, by one function
        missing = []
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


def recorded(call: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call that JSON can hold; tensors and objects are left out."""
    return {key: value for key, value in call.items() if _plain(value)}


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    if isinstance(value, dict):
        return all(map(_plain, value.values()))
    return value is None or isinstance(value, str | int | float | bool)
