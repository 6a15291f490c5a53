"""A fitted solver as a diffusers scheduler: ``pipe.scheduler = S4SScheduler.from_solver(solver, process, "eps")``.

A pipeline carries ``x_t = alpha x_0 + sigma eps`` from standard normal noise, so that is the state here too, in the
pipeline's dtype; the table's own sums are in float32. Steps are counted, a time is never looked up. What a table cannot
do (start in the middle, other times, latents changed between steps) is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from s4s.bundle import Bundle
from s4s.discrete import VPDiscrete
from s4s.errors import Error, Notice, extra, require_choice
from s4s.integrations.compare import card_of, mismatches, other_shift
from s4s.integrations.latents import same, shares, version
from s4s.integrations.plan import Plan, flows, plan, plan_from_dict, require_standard_start, solvers_of
from s4s.process import PREDICTIONS, Flow, Process
from s4s.solver import Solver, solver_from_dict
from s4s.values import amount, doubles, require_floats, without_variance
from s4s.version import __version__

with extra("diffusers"):
    from diffusers import ConfigMixin, SchedulerMixin
    from diffusers.configuration_utils import register_to_config
    from diffusers.schedulers.scheduling_utils import SchedulerOutput

NAMES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction", "flow": "flow_prediction"}
SHIFT = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type")
EARLY = 0.1  # of a training step: how far below the first one a solver's last evaluation may lie


class S4SScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """Runs fitted solvers in any pipeline that samples from standard normal latents. Made by ``from_solver``.

    Args:
        solvers: plans of the solvers, one for each number of evaluations.
        prediction_type: diffusers' name of what the network predicts.
        num_train_timesteps, trained_betas: the noise schedule, for ``add_noise`` and for whoever loads the model; betas
            are None for a flow, and for a process without a table.
        card: what the solvers were fitted for.
        s4s_version: that wrote them.
    """

    order = 1
    init_noise_sigma = 1.0
    _first: Tensor | None
    _state: Tensor | None
    _returned: Tensor | None
    _outputs: list[Tensor]

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        solvers: list[dict[str, Any]] | None = None,
        prediction_type: str = "epsilon",
        num_train_timesteps: int = 1000,
        trained_betas: list[float] | None = None,
        card: dict[str, Any] | None = None,
        s4s_version: str = __version__,
    ) -> None:
        if not solvers:
            raise Error("this configuration holds no solver: make the scheduler with S4SScheduler.from_solver(...)")
        require_choice("prediction_type", prediction_type, NAMES.values())
        plans = [plan_from_dict(each) for each in solvers]
        self._plans = {each.nfe: each for each in sorted(plans, key=lambda each: each.nfe)}
        self._prediction = next(ours for ours, name in NAMES.items() if name == prediction_type)
        self._plan: Plan | None = None
        self._forget()
        self.timesteps = torch.tensor(next(iter(self._plans.values())).times, dtype=torch.float32)
        self.num_inference_steps: int | None = None

    @classmethod
    def from_solver(
        cls,
        solver: Solver | Mapping[int, Solver],
        process: Process,
        prediction: str,
        card: Mapping[str, Any] | None = None,
    ) -> S4SScheduler:
        """The scheduler of a solver, or of a bundle or curve: ``num_inference_steps`` then picks one.

        Args:
            solver: fitted on the network the pipeline holds.
            process: of that network. The times of ``s4s.Flow`` are multiplied by 1000, as flow pipelines have it.
            prediction: ``eps``, ``x0``, ``v`` or ``flow``, or diffusers' names of them.
            card: JSON-able; what the solver is for: model, guidance, resolution, shift, who fitted it and on what. What
                a bundle's own card says and this does not is kept.

        Raises:
            Error: a solver that does not fit the process, or does not start from standard normal latents.
        """
        require_choice("prediction", prediction, [*NAMES, *NAMES.values()])
        ours = {name: key for key, name in NAMES.items()}.get(prediction, prediction)
        if not isinstance(process, Process):
            raise Error(f"a process is needed, such as s4s.Flow(), got {type(process).__name__}")
        own_time = type(process).model_time is Process.model_time
        time_scale = 1000.0 if isinstance(process, Flow) and own_time else 1.0
        plans = [plan(each, process, time_scale) for each in solvers_of(solver)]
        for each in plans:
            require_standard_start(each)
        table = process.alphas_cumprod if isinstance(process, VPDiscrete) else None
        betas = None if table is None else _betas(doubles(table, "alphas_cumprod"))
        facts = card_of(solver, card) | {"nfe": [each.nfe for each in plans], "prediction": ours}
        return cls(
            solvers=[each.to_dict() for each in plans],
            prediction_type=NAMES[ours],
            num_train_timesteps=1000 if betas is None else len(betas),
            trained_betas=betas,
            card=facts,
            s4s_version=__version__,
        )

    @property
    def bundle(self) -> Bundle:
        """The solvers it runs."""
        return Bundle({nfe: solver_from_dict(each.solver) for nfe, each in self._plans.items()})

    def install(self, pipe: Any, *, guidance_scale: float | None = None) -> Any:
        """Put the scheduler into a pipeline, with a ``Notice`` for what can be seen not to match it.

        Compares prediction type, noise schedule, times and shift with the pipeline's present scheduler, and the
        guidance that calls will use with the card's. What pipelines work their shift out from, which they read from
        their scheduler's config, is kept. Returns the pipeline.

        Raises:
            Error: no pipeline with a scheduler to compare with.
        """
        if not isinstance(getattr(getattr(pipe, "scheduler", None), "config", None), Mapping):
            raise Error(f"install takes a loaded pipeline with a scheduler of diffusers, got a {type(pipe).__name__}"
                        " without one")  # fmt: skip
        guidance_scale = None if guidance_scale is None else amount(guidance_scale, "guidance_scale")
        for line in mismatches(self.config, pipe.scheduler, guidance_scale):
            warnings.warn(line, Notice, stacklevel=2)
        theirs = pipe.scheduler.config
        self.register_to_config(**{key: theirs[key] for key in SHIFT if key in theirs})
        pipe.scheduler = self
        return pipe

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        timesteps: Any = None,
    ) -> None:
        """Choose the solver and start anew.

        Args:
            num_inference_steps: its number of evaluations; may be left out where there is one solver.
            device: of ``timesteps``.
            sigmas: of flow pipelines that give no number of steps: their length picks the solver. They must be the
                pipeline's default, evenly spaced from 1, since the solver has its own.
            mu: the pipeline's shift for its resolution; not used, the solver has its own times. A ``Notice`` says where
                it is far from the card's.
            timesteps: refused.
        """
        if timesteps is not None:
            raise Error("timesteps= does not go with a fitted solver, which has its own; leave it out")
        if sigmas is not None:
            num_inference_steps = _evenly(sigmas, num_inference_steps)
        num_inference_steps = self._number(num_inference_steps)
        if (line := other_shift(self.config, mu)) is not None:
            warnings.warn(line, Notice, stacklevel=2)
        self._plan = self._plans[num_inference_steps]
        self._rows = self._plan.rows()
        flow = self.config.prediction_type == NAMES["flow"]
        levels = [s if flow else s / a for a, s in zip(self._plan.alpha, self._plan.noise, strict=True)]
        self.sigmas = torch.tensor([*levels, 0.0], dtype=torch.float32)  # some pipelines report them
        self.num_inference_steps = num_inference_steps
        self.timesteps = torch.tensor(self._plan.times, dtype=torch.float32, device=device)
        self._forget()

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Accepts the beginning only: a table's steps use the noise it started from."""
        if begin_index:
            raise Error(f"a fitted solver starts from noise, not at step {begin_index}: image-to-image with strength "
                        "below 1 needs another scheduler")  # fmt: skip

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample, which is in the network's coordinates already."""
        return sample

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, generator: Any = None, return_dict: bool = True
    ) -> SchedulerOutput | tuple[Tensor, Tensor]:
        """One row of the table.

        Args:
            model_output: [B, ...] what the network said of ``sample``; of twice the channels, its first half.
            timestep: where the loop is; only compared, on a CPU, with where the solver is.
            sample: [B, ...] the state, as the last step returned it.
            generator: not used, the solver is deterministic.
            return_dict: whether to return an object with ``prev_sample``, or a tuple of it and the prediction of x_0.

        Raises:
            Error: before ``set_timesteps``, after the last step, out of order, or a sample changed since.
        """
        require_floats(sample, "the sample")
        n = self._require_turn(timestep, sample)
        plan, (start, weight) = self._plan, self._rows[n]
        if n == 0:  # a copy, of the pipeline's own latents, which it may write to
            self._first = self._state = sample.to(torch.promote_types(sample.dtype, torch.float32), copy=True)
        x_t = self._state  # what the sample was before it was rounded
        assert plan is not None and self._first is not None and x_t is not None
        output = without_variance(model_output, sample).to(x_t.dtype)
        D = PREDICTIONS[self._prediction](x_t, output, plan.alpha[n], plan.noise[n])  # type: ignore[arg-type]
        self._outputs.append(D.clone() if shares(D, model_output) else D)  # a compiled network writes there again
        x = start * self._first
        for w, output in zip(weight, self._outputs, strict=True):
            x.add_(output, alpha=w)
        returned = x.to(sample.dtype)
        self._keep(n + 1, x, returned)
        return SchedulerOutput(prev_sample=returned) if return_dict else (returned, D.to(sample.dtype))

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """``alpha x_0 + sigma eps`` at training steps [B], for training tools.

        Raises:
            Error: the solver's process has no table of training steps, or not these.
        """
        process, last = self._process(), self.config.num_train_timesteps
        require_floats(original_samples, "original_samples")
        t = doubles(timesteps, "timesteps").to(original_samples.device)
        if t.numel() not in (1, len(original_samples)):
            raise Error(f"{t.numel()} timesteps for {len(original_samples)} samples: give one, or one for each")
        if not ((t > -EARLY) & (t <= last)).all():
            raise Error(f"training steps are from 0 to {last}, got {t.min().item():.6g} to {t.max().item():.6g}")
        t = (t + 1) / last if isinstance(process, VPDiscrete) else t / last
        scales = (process.alpha(t), process.sigma(t))
        alpha, sigma = (s.to(original_samples).reshape(-1, *[1] * (original_samples.ndim - 1)) for s in scales)
        return alpha * original_samples + sigma * noise

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """``add_noise`` as image-to-image pipelines of flows call it."""
        return self.add_noise(sample, noise, timestep)

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

    def _keep(self, done: int, state: Tensor, returned: Tensor) -> None:
        """For the next step; nothing is held between pictures."""
        if done < len(self._rows):
            kept = returned.clone() if returned.is_inference() else returned  # whose changes are not counted
            self._done, self._state, self._returned, self._version = done, state, kept, version(kept)
        else:
            self._forget()
            self._done = done

    def _forget(self) -> None:
        self._done, self._version, self._outputs = 0, 0, []
        self._first = self._state = self._returned = None

    def _number(self, steps: Any) -> int:
        """The number of evaluations that is asked for, of those there are."""
        if steps is None and len(self._plans) == 1:
            return next(iter(self._plans))
        try:
            return next(nfe for nfe in self._plans if nfe == steps)
        except (StopIteration, RuntimeError, ValueError) as error:  # several numbers are not true or false
            there = ", ".join(map(str, self._plans))
            raise Error(f"no solver for num_inference_steps={steps!r:.60} here, only for {there}") from error

    def _require_turn(self, timestep: Any, sample: Tensor) -> int:
        """The number of this step, if it is one that can be made."""
        if self._plan is None:
            raise Error("call set_timesteps before the first step")
        n = self._done
        if n >= self._plan.nfe:
            raise Error(f"the solver's {self._plan.nfe} steps are done; call set_timesteps before another picture")
        if not isinstance(timestep, Tensor) or timestep.device.type == "cpu":
            found, own = doubles(timestep, "timestep").flatten()[:1].sum().item(), self._plan.times[n]
            if not abs(found - own) <= 1e-2 * abs(own) + 1e-2:
                raise Error(f"step {n} is at time {own:.6g}, but was called at {found:.6g}: all steps, in their order")
        if self._state is not None and sample.device != self._state.device:
            raise Error(f"the latents moved from {self._state.device} to {sample.device} before step {n}; start anew")
        if n and not same(sample, self._returned, self._version):
            raise Error(f"the latents were changed before step {n}, by a callback, inpainting or another pipeline with "
                        "this scheduler; a fitted solver does not follow that")  # fmt: skip
        return n

    def _process(self) -> Process:
        if self.config.trained_betas is not None:
            return VPDiscrete((1 - torch.tensor(self.config.trained_betas, dtype=torch.float64)).cumprod(0), t_max=1.0)
        if all(map(flows, self._plans.values())):
            return Flow()
        raise Error("add_noise needs a table of training steps, which the solver's process has not")


def _betas(table: Tensor) -> list[float]:
    made: list[float] = torch.cat([1 - table[:1], 1 - table[1:] / table[:-1]]).tolist()
    return made


def _evenly(sigmas: Sequence[float], steps: int | None) -> int:
    """How many sigmas a flow pipeline asks for; they must be its default."""
    given = doubles(sigmas, "sigmas").cpu()
    n = given.numel()
    own = torch.linspace(1, 1 / max(n, 1), n, dtype=torch.float64)
    if steps not in (None, n) or given.shape != own.shape or not torch.allclose(given, own, atol=1e-4):
        raise Error(
            "sigmas= does not go with a fitted solver, which has its own; leave it out, or give num_inference_steps"
        )
    return n
