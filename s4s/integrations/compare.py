"""Cards of what a solver was fitted for, and what can be seen not to match in the pipeline it goes into."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from s4s.errors import Error

# Relative; from here on a solver was fitted for something else
FAR = {"guidance": 0.2, "shift of this resolution": 0.2, "last alphas_cumprod": 1e-2, "alpha + sigma": 1e-2,
       "first time": 0.3}  # fmt: skip
ROUNDING = 1e-9


def mismatches(config: Mapping[str, Any], scheduler: Any, guidance: float | None) -> Iterator[str]:
    """One line each, with both values.

    Args:
        config: of the fitted scheduler.
        scheduler: the one the pipeline has.
        guidance: that the pipeline will be called with, if known.
    """
    theirs, card = scheduler.config, config["card"] or {}
    matching = type(scheduler).__name__.startswith("FlowMatch")  # the class alone says that it is of a flow
    prediction = "flow_prediction" if matching else theirs.get("prediction_type")
    flow = prediction == "flow_prediction"
    by_call = theirs.get("use_dynamic_shifting")  # then ``other_shift`` compares, in every call
    table = None if flow else getattr(scheduler, "alphas_cumprod", None)  # of a flow it is there and not used
    found = {
        "prediction_type": (config["prediction_type"], prediction),
        "num_train_timesteps": (config["num_train_timesteps"], theirs.get("num_train_timesteps")),
        "shift": (
            card.get("shift"),
            None if by_call else theirs.get("flow_shift" if flow and not matching else "shift"),
        ),
        "last alphas_cumprod": (_last(config), None if table is None else float(table[-1])),
        "alpha + sigma": (round(max(map(sum, _scales(config))), 4), 1.0 if flow else None),
        "first time": (round(config["solvers"][0]["times"][0], 4), _time(next(_scales(config)), theirs, flow, table)),
        "guidance": (card.get("guidance"), guidance),
    }
    for name, (mine, other) in found.items():
        if mine is not None and other is not None and _differ(mine, other, FAR.get(name, ROUNDING)):
            yield f"{name}: the solver is for {mine}, the pipeline has {other}"


def card_of(solver: Any, said: Mapping[str, Any] | None) -> dict[str, Any]:
    """The card of a solver or bundle, as fresh plain values: what its own record has under ``card``, and what is said.

    Raises:
        Error: it cannot be saved as JSON.
    """
    own = getattr(solver, "provenance", {}).get("card")
    try:
        kept = dict(own) if isinstance(own, Mapping) else {}
        made: dict[str, Any] = json.loads(json.dumps(kept | dict(said or {})))
    except (TypeError, ValueError) as error:
        raise Error(f"the card must be of plain numbers, strings and lists: {error}") from error
    return made


def other_shift(config: Mapping[str, Any], mu: float | None) -> str | None:
    """What to say where a pipeline's own shift, ``exp(mu)`` or, where its type is linear, ``mu``, is not the card's."""
    name, mine = "shift of this resolution", (config["card"] or {}).get("shift")
    if mu is None or mine is None:
        return None
    other = round(mu if config.get("time_shift_type") == "linear" else math.exp(mu), 4)
    if not _differ(mine, other, FAR[name]):
        return None
    return f"{name}: the solver is for {mine}, the pipeline has {other}"


def _scales(config: Mapping[str, Any]) -> Iterator[tuple[float, float]]:
    """Alpha and sigma of every evaluation of all solvers."""
    for each in config["solvers"]:
        yield from zip(each["alpha"], each["noise"], strict=True)


def _time(
    scales: tuple[float, float], theirs: Mapping[str, Any], flow: bool, table: torch.Tensor | None
) -> float | None:
    """What the network of a pipeline is told at some alpha and sigma; of a table the training step, to one below."""
    level = scales[1] / scales[0]
    if flow:
        count = theirs.get("num_train_timesteps")
        return None if count is None else round(count * level / (1 + level), 4)
    return None if table is None else max(int(((1 / table - 1).sqrt() <= level).sum()) - 1, 0)


def _last(config: Mapping[str, Any]) -> float:
    """What a table of the solvers' noise schedule ends in, or would: their first evaluation's, without a table."""
    if config["trained_betas"] is None:
        return min(1 / (1 + (noise / alpha) ** 2) for alpha, noise in _scales(config))
    return (1 - torch.tensor(config["trained_betas"], dtype=torch.float64)).prod().item()


def _differ(mine: Any, other: Any, tolerance: float) -> bool:
    if isinstance(mine, int | float) and isinstance(other, int | float):
        return abs(mine - other) > tolerance * max(abs(mine), abs(other))
    return bool(mine != other)
