"""Every family starts at every registered solver it can hold, to 1e-12, at every order; configs know which it can."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from problems import TwoPoints

import s4s
from s4s import classical
from s4s.learn.family import FAMILIES, WITH_ORDER, family
from s4s.learn.methods import APART, METHODS
from s4s.stages.cells import Cell
from s4s.stages.possible import require_held
from s4s.steps import increments

PROCESS = s4s.EDM(0.01, 20.0)
PLAIN = [kind for kind in FAMILIES if kind not in APART]  # the others need two outputs: test_apart
KINDS = [(kind, k) for kind in PLAIN for k in ([None, 1, 2, 3, 4] if kind in WITH_ORDER else [None])]


def registered() -> list[tuple[str, dict[str, Any]]]:
    """All registered solvers with all of their options that can be listed."""
    made = []
    for name, options in s4s.solvers().items():
        choices = {key: option["choices"] for key, option in options.items() if "choices" in option}
        made += [(name, dict(zip(choices, values, strict=True))) for values in product(*choices.values())]
    return made


def start(name: str, options: dict[str, Any], schedule: str, nfe: int) -> s4s.Solver | None:
    """The solver; None if there is no such combination of options."""
    try:
        steps = classical.intervals(name, nfe, **options)
        return s4s.solver(name, s4s.grid(schedule, PROCESS, steps), **options)
    except s4s.Error:
        return None


def held(solver: s4s.Solver, kind: str, order: int | None) -> bool:
    """Whether the family can hold the solver; if so, exactly."""
    try:
        made = family(solver, kind, order)
    except s4s.Error:
        return False
    again = made.solver(made.theta)
    for key in ("sigma", "sigma_eval", "start", "weight"):
        value, target = getattr(again, key), getattr(solver, key)
        assert (value - target).abs().max() <= 1e-12 * target.abs().max(), (kind, order, key)
    return True


def possible(name: str, options: dict[str, Any], kind: str, order: int | None, nfe: int) -> bool:
    """Whether a config may ask for it."""
    method = next(m for m, spec in METHODS.items() if spec.family == kind or (spec.open and kind != "classical"))
    try:
        require_held(Cell(method, name, options, "edm", nfe, 0, kind, order))
    except s4s.Error:
        return False
    return True


@pytest.mark.parametrize("schedule", ["logsnr", "edm", "quadratic"])
def test_families_start_at_every_registered_solver_they_can_hold(schedule: str) -> None:
    found: dict[str, set[str]] = {kind: set() for kind in PLAIN}
    for name, options in registered():
        solver = start(name, options, schedule, 6)
        for kind, order in KINDS if solver is not None else []:
            if held(solver, kind, order):  # type: ignore[arg-type]
                found[kind].add(name)
    multistep = set(s4s.solvers()) - {"heun"}
    assert all(found[kind] == multistep for kind in ("lms", "pc", "guided", "full", "classical"))
    assert found["ss"] == {"ddim", "heun", "dpmpp", "ipndm", "deis"}  # of order 1, where they are not single-step


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_every_order_has_a_start(order: int) -> None:
    solvers = {
        "lms": s4s.solver("ipndm", s4s.grid("edm", PROCESS, 6), order=order),
        "pc": s4s.solver("unipc", s4s.grid("edm", PROCESS, 6), order=min(order, 3)),
        "ss": s4s.solver("ddim", s4s.grid("edm", PROCESS, 6)),
    }
    for kind, solver in solvers.items():
        assert held(solver, kind, order), kind
        made = family(solver, kind, order)
        if kind == "lms":
            assert made.moves("weight").shape[1] == sum(min(n + 1, order) for n in range(6))


@pytest.mark.parametrize("nfe", [4, 6])
def test_configs_refuse_what_no_fit_could_start_from(nfe: int) -> None:
    """A config is checked without torch, by rules; here they are held to the families."""
    for name, options in registered():
        solver = start(name, options, "edm", nfe)
        for kind, order in KINDS if solver is not None else []:
            allowed, exact = possible(name, options, kind, order, nfe), held(solver, kind, order)  # type: ignore[arg-type]
            assert exact or not allowed, (name, options, kind, order)
            by_chance = nfe == 4 or kind == "ss" or options.get("singlestep")  # as where last steps have a lower order
            assert allowed or not exact or by_chance, (name, options, kind, order)


def test_both_conversions_of_decoupled_times_can_be_learned() -> None:
    """One choice: of the start if it says, else of the fit; data form only, so the two fits part."""
    grid = s4s.grid("edm", PROCESS, 4)
    strong = s4s.solver("dpmpp", s4s.grid("logsnr", PROCESS, 30))
    teacher = s4s.teacher_set(strong, denoise, 64, (2,), dtype=torch.float64)
    coupled = s4s.solver("dpmpp", grid, order=2)
    loss = {}
    for convert in ("eval", "grid"):
        found = s4s.fit(coupled, denoise, teacher, "s4s-alt", convert=convert, rounds=2)
        again = s4s.solver("dpmpp", grid, grid[:-1], convert, order=2)  # type: ignore[arg-type]
        assert s4s.fit(again, denoise, teacher, "s4s-alt", rounds=2).val_loss == pytest.approx(found.val_loss, rel=1e-8)
        assert found.solver.provenance["convert"] == convert
        loss[convert] = found.val_loss
    assert loss["eval"] != loss["grid"] and max(loss.values()) < found.start_loss


def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return TwoPoints().denoise(x, sigma.reshape(-1, 1))


@pytest.mark.parametrize("method", sorted(name for name, spec in METHODS.items() if spec.family not in APART))
def test_one_step_has_no_grid_to_learn(method: str) -> None:
    strong = s4s.solver("dpmpp", s4s.grid("logsnr", PROCESS, 30))
    teacher = s4s.teacher_set(strong, denoise, 64, (2,), dtype=torch.float64)
    one = s4s.solver("ddim", s4s.grid("edm", PROCESS, 1))
    found = s4s.fit(one, denoise, teacher, method, rounds=2)
    assert found.val_loss <= found.start_loss and (method != "ld3") == bool(found.history)
    several = s4s.solver("ddim", s4s.grid("edm", PROCESS, 4))
    if METHODS[method].open:
        found = s4s.fit(several, denoise, teacher, method, family="ss", order=4, rounds=3)
        assert found.val_loss < found.start_loss


@pytest.mark.parametrize("kind", ["lms", "pc"])
@pytest.mark.parametrize(("name", "form"), [("unipc", "x0"), ("dpmpp", "x0"), ("ipndm", "eps")])
def test_s4s_keeps_the_sum_of_every_step_in_data_form(name: str, form: str, kind: str) -> None:
    """So that it maps a constant output to itself; S4S-Alt and noise form are free to leave that."""
    strong = s4s.solver("dpmpp", s4s.grid("logsnr", PROCESS, 30))
    teacher = s4s.teacher_set(strong, denoise, 64, (2,), dtype=torch.float64)
    start = s4s.solver(name, s4s.grid("edm", PROCESS, 4))
    kept = {}
    for method in ("s4s", "s4s-alt"):
        found = s4s.fit(start, denoise, teacher, method, family=kind, rounds=2)
        assert found.val_loss < found.start_loss
        sums = increments(found.solver, form).sum(1)
        kept[method] = torch.allclose(sums, torch.ones_like(sums), atol=1e-9)
    assert kept == {"s4s": form == "x0", "s4s-alt": False}
    single = s4s.solver(name, s4s.grid("edm", PROCESS, 4), order=1)
    assert s4s.fit(single, denoise, teacher, "s4s", rounds=2).history, "one output a step is free"
