"""A pipeline's own scheduler beside a solver: from the same noises, with as many evaluations, or the most below it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s4s.errors import Error
from s4s.models.model import Model
from s4s.models.probe import network_of
from s4s.models.scheduler import schedule

TABLE = 4096  # levels between which a time told by a scheduler is looked up


class _Begun(Exception):
    """Ends a call of the pipeline once its scheduler has chosen the times."""


@dataclass(frozen=True)
class Steps:
    """What a scheduler does when asked for ``steps``.

    Args:
        steps: asked for.
        evaluations: of the network.
        levels: of its steps, falling.
        shift: of its times; of one that shifts by resolution, for that of the call. None where that is not told.
    """

    steps: int
    evaluations: int
    levels: tuple[float, ...]
    shift: float | None = None


@dataclass(frozen=True)
class Own:
    """A pipeline called as a user calls it.

    Args:
        pipe: the pipeline, with its own scheduler.
        prompts: to choose from; empty for one without.
        call: all other arguments.
        model: what ``pipeline_denoiser`` makes of the same call.
    """

    pipe: Any
    prompts: Sequence[str]
    call: Mapping[str, Any]
    model: Model

    @property
    def name(self) -> str:
        return type(self.pipe.scheduler).__name__.removesuffix("Scheduler")

    def at(self, nfe: int) -> Steps:
        """The most steps that take at most ``nfe`` evaluations.

        Raises:
            Error: there are none.
        """
        for steps in range(nfe, 0, -1):
            times, mu = self._times(steps)
            if len(times) <= nfe:
                return Steps(steps, len(times), tuple(self._levels(times)), self._shift(mu))
        raise Error(f"{self.name} takes more than {nfe} evaluations for a single step")

    def sample(self, z: Tensor, rows: Sequence[int], steps: int, seed: int = 0) -> Tensor:
        """Last latents from standard normal ones [B, ...], under prompts of some numbers."""
        return torch.as_tensor(self._called(z, rows, steps, seed)[0]).to(z)

    def _called(self, z: Tensor, rows: Sequence[int], steps: int, seed: int = 0) -> Any:
        latents = z.to(self.pipe.device, getattr(network_of(self.pipe), "dtype", z.dtype))
        options: dict[str, Any] = {"latents": latents, "num_inference_steps": steps, "output_type": "latent"}
        if self.prompts:
            options["prompt"] = [self.prompts[i] for i in rows]
        if "generator" in inspect.signature(type(self.pipe).__call__).parameters:  # of schedulers that add noise
            options["generator"] = torch.Generator().manual_seed(seed)
        return self.pipe(**dict(self.call) | options, return_dict=False)

    def _shift(self, mu: float | None) -> float | None:
        """Some pipelines give ``mu`` to schedulers that do not use it: a shift that is compared with neither."""
        config = self.pipe.scheduler.config
        if config.get("use_dynamic_shifting"):
            return None if mu is None else round(math.exp(mu), 4)
        return config.get("shift") if mu is None else None

    def _times(self, steps: int) -> tuple[list[float], float | None]:
        """What the scheduler would tell the network, an evaluation each; and the ``mu`` that the pipeline gave it."""
        scheduler, given = self.pipe.scheduler, []
        choose = scheduler.set_timesteps

        @wraps(choose)  # pipelines look at its signature
        def chosen(*args: Any, **options: Any) -> Any:
            given.append(options.get("mu"))
            return choose(*args, **options)

        def begun(*args: Any, **options: Any) -> Any:
            raise _Begun

        scheduler.step, scheduler.set_timesteps = begun, chosen
        try:
            self._called(torch.zeros(1, *self.model.shape), [0], steps)
        except _Begun:
            mu = given[-1] if given else None
            return [float(t) for t in torch.as_tensor(scheduler.timesteps).flatten()], mu
        finally:
            del scheduler.step, scheduler.set_timesteps
        raise Error(f"{type(self.pipe).__name__} makes no step with its scheduler")

    def _levels(self, times: Sequence[float]) -> list[float]:
        """Noise levels of times as the scheduler has them, without repetitions."""
        _, _, scale = schedule(type(self.pipe.scheduler).__name__, self.pipe.scheduler.config)
        process = self.model.process
        low, high = process.levels
        levels = np.geomspace(max(low, 1e-9), high, TABLE)
        known = scale * process.model_time(torch.from_numpy(levels)).numpy()
        found = np.exp(np.interp(times, known, np.log(levels)))
        return [level for k, level in enumerate(found.tolist()) if k == 0 or level < found[:k].min()]
