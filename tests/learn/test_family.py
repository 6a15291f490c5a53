"""Predictor-corrector and single-step families: exact starts, what their numbers mean, levels, conversions, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import TwoPoints
from torch import Tensor

import s4s
from s4s.learn.family import FAMILIES, Family, family
from s4s.learn.methods import APART
from s4s.steps import increments

PROCESS = s4s.EDM(0.01, 20.0)
D = TwoPoints().denoise

MULTISTEP: list[tuple[str, dict[str, Any]]] = [
    ("ddim", {}),
    *((name, {"order": k}) for name in ("ipndm", "deis", "dpmpp", "unipc") for k in (1, 2, 3)),
    *((name, {"order": 4}) for name in ("ipndm", "deis")),
    *(("unipc", {"order": k, "variant": "bh1"}) for k in (1, 2, 3)),
    ("unipc", {"prediction": "eps"}),
    ("unipc", {"lower_order_final": False}),
    ("dpmpp", {"prediction": "eps"}),
]
SINGLESTEP: list[tuple[str, dict[str, Any], int]] = [
    ("ddim", {}, 4),
    ("heun", {}, 3),
    *(("dpmpp", {"order": k, "singlestep": True}, 3) for k in (1, 2, 3)),
    ("dpmpp", {"order": 2, "singlestep": True, "variant": "taylor"}, 3),
    ("dpmpp", {"order": 3, "singlestep": True, "prediction": "eps"}, 3),
    ("dpmpp", {"order": 3, "singlestep": True, "orders": [3, 1, 2]}, 3),
]


def start(name: str, options: dict[str, Any], steps: int, schedule: str = "edm", **decoupled: Any) -> s4s.Solver:
    return s4s.solver(name, s4s.grid(schedule, PROCESS, steps), **options, **decoupled)


def shifted(schedule: str, steps: int) -> Tensor:
    """Decoupled times: one moved up, one down."""
    sigma = s4s.grid(schedule, PROCESS, steps)
    times = sigma[:-1].clone()
    times[1], times[3] = sigma[1] ** 0.8 * sigma[0] ** 0.2, sigma[3] ** 0.7 * sigma[4] ** 0.3
    return times


def assert_starts(made: Family, solver: s4s.Solver) -> None:
    again = made.solver(made.theta)
    for key in ("sigma", "sigma_eval", "start", "weight"):
        value, target = getattr(again, key), getattr(solver, key)
        assert (value - target).abs().max() <= 1e-12 * target.abs().max(), key


def moved(made: Family, size: float = 0.1, seed: int = 0) -> Tensor:
    """Parameters a little off the start."""
    generator = torch.Generator().manual_seed(seed)
    return made.theta + size * torch.randn(len(made.theta), generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("name", "options"), MULTISTEP)
@pytest.mark.parametrize("schedule", ["logsnr", "edm", "quadratic"])
@pytest.mark.parametrize("convert", ["eval", "grid"])
def test_pc_starts_at_any_multistep_solver(name: str, options: dict[str, Any], schedule: str, convert: str) -> None:
    for times in (None, shifted(schedule, 6)):
        solver = start(name, options, 6, schedule, sigma_eval=times, convert=convert)
        for order in (None, 4):
            assert_starts(family(solver, "pc", order, convert), solver)


def test_pc_from_a_predictor_has_it_twice() -> None:
    for name in ("ipndm", "dpmpp"):
        made = family(start(name, {"order": 3}, 6), "pc")
        weight = made.theta[made.blocks["weight"]]
        predictor, corrector = weight[:15], weight[15:]  # 1 + 2 + 3 * 4, and 2 + 3 + 4 * 3
        lms = family(start(name, {"order": 3}, 6), "lms")
        assert torch.equal(predictor, lms.theta[lms.blocks["weight"]])
        new = torch.tensor([0, 2, 5, 9, 13])
        assert not corrector[new].any() and len(corrector) == 17
        assert torch.allclose(corrector[torch.tensor([1, 3, 4, 6, 7, 8])], predictor[:6], atol=1e-13)


@pytest.mark.parametrize("prediction", ["x0", "eps"])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_pc_from_unipc_has_its_weights(order: int, variant: str, prediction: str) -> None:
    """Both sum to one; the corrector of order 1 is the trapezium, the predictor of order 2 is DPM-Solver++ 2M."""
    options = {"order": order, "variant": variant, "prediction": prediction, "lower_order_final": False}
    made = family(start("unipc", options, 6), "pc")
    weight = made.theta[made.blocks["weight"]]
    sizes = [min(n + 1, order) for n in range(6)]
    rows = weight.split([*sizes, *(size + 1 for size in sizes[:-1])])
    assert torch.allclose(torch.stack([row.sum() for row in rows]), torch.ones(11, dtype=torch.float64))
    if variant == "bh2":
        assert rows[6].tolist() == pytest.approx([0.5, 0.5])
    if order == 2 and variant == "bh2":
        two = family(start("dpmpp", {"order": 2, "prediction": prediction, "lower_order_final": False}, 6), "lms")
        assert torch.allclose(weight[: sum(sizes)], two.theta[two.blocks["weight"]])


@pytest.mark.parametrize(("name", "form", "order"), [("unipc", "x0", 3), ("ipndm", "eps", 2)])
def test_pc_is_predict_evaluate_correct(name: str, form: str, order: int) -> None:
    """The definition, on states, with one evaluation a step."""
    made = family(start(name, {"order": 3}, 5), "pc", order)
    solver = made.solver(moved(made))
    weight = moved(made)[made.blocks["weight"]]
    sizes = [min(n + 1, order) for n in range(5)]
    rows = weight.split([*sizes, *(size + 1 for size in sizes[:-1])])
    x = x_T = 20 * torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def output(state: Tensor, n: int) -> Tensor:
        value = D(state, solver.sigma_eval[n])
        return value if form == "x0" else (state - value) / solver.sigma_eval[n]

    latest = [output(x, 0)]
    for n in range(5):
        here, there = solver.sigma[n], solver.sigma[n + 1]
        r, gain = (there / here, 1 - there / here) if form == "x0" else (1.0, there - here)
        predicted = r * x + gain * sum(b * f for b, f in zip(rows[n], latest, strict=False))
        if n < 4:
            latest.insert(0, output(predicted, n + 1))
            x = r * x + gain * sum(a * f for a, f in zip(rows[5 + n], latest, strict=False))
    assert torch.allclose(s4s.sample(solver, D, x_T), predicted, rtol=1e-10)


@pytest.mark.parametrize("name", ["unipc", "ipndm", "dpmpp"])
def test_pc_of_order_k_is_lms_of_order_k_plus_one(name: str) -> None:
    """As tables: every one of either is one of the other, so PC's other parameters change nothing."""
    solver = start(name, {"order": 3}, 7)
    pc = family(solver, "pc", 3)
    theta = moved(pc)
    table = pc.solver(theta)
    assert_starts(family(table, "lms", 4), table)
    lms = family(solver, "lms", 4)
    assert_starts(family(lms.solver(moved(lms)), "pc", 3), lms.solver(moved(lms)))
    weight = pc.blocks["weight"]
    slope = torch.func.jacfwd(lambda w: pc.arrays(torch.cat([w, theta[weight.stop :]]))[3].flatten())(theta[weight])
    assert torch.linalg.matrix_rank(slope, rtol=1e-9) == len(lms.theta[lms.blocks["weight"]]) < weight.stop


@pytest.mark.parametrize(("name", "options", "steps"), SINGLESTEP)
@pytest.mark.parametrize("schedule", ["logsnr", "edm", "quadratic"])
def test_ss_starts_at_any_singlestep_solver(name: str, options: dict[str, Any], steps: int, schedule: str) -> None:
    solver = start(name, options, steps, schedule)
    assert_starts(family(solver, "ss"), solver)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_ss_of_any_order_starts_at_ddim(order: int) -> None:
    solver = start("ddim", {}, 7)
    made = family(solver, "ss", order)
    assert_starts(made, solver)
    full, rest = divmod(7, order)
    stages = [order] * full + [rest] * (rest > 0)
    assert made.moves("weight").shape[1] == sum(k * (k + 1) // 2 + k - 1 for k in stages)
    assert made.moves("grid").shape[1] == made.moves("shift").shape[1] == len(stages) - 1


def test_ss_in_one_step_starts_at_anything() -> None:
    for name in ("unipc", "ipndm", "deis", "dpmpp"):
        solver = start(name, {"order": 3}, 5)
        assert_starts(family(solver, "ss", 5), solver)


@pytest.mark.parametrize(("name", "form", "options", "stages"), [
    ("heun", "eps", {}, 2), ("dpmpp", "x0", {"order": 3, "singlestep": True}, 3),
])  # fmt: skip
def test_ss_is_runge_kutta(name: str, form: str, options: dict[str, Any], stages: int) -> None:
    """The definition, on states: each stage from the step's first state, by the outputs before it in its step."""
    made = family(start(name, options, 3), "ss")
    solver, weight = made.solver(moved(made)), moved(made)[made.blocks["weight"]]
    x = x_T = 20 * torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = list(weight[: 3 * stages * (stages + 1) // 2].split([i + 1 for _ in range(3) for i in range(stages)]))
    for first in range(0, 3 * stages, stages):
        kappa, state = list[Tensor](), x
        for i in range(stages):
            level = solver.sigma_eval[first + i]
            value = D(state, level)
            kappa.insert(0, value if form == "x0" else (state - value) / level)
            here, there = solver.sigma[first], solver.sigma[first + i + 1]
            r, gain = (there / here, 1 - there / here) if form == "x0" else (1.0, there - here)
            state = r * x + gain * sum(b * f for b, f in zip(rows.pop(0), kappa, strict=True))
        x = state
    assert torch.allclose(s4s.sample(solver, D, x_T), x, rtol=1e-10)


@given(st.sampled_from(SINGLESTEP), st.lists(st.floats(-80, 80), min_size=32, max_size=32))
@settings(max_examples=100, deadline=None)
def test_ss_levels_fall_whatever_the_parameters(case: tuple[str, dict[str, Any], int], values: list[float]) -> None:
    made = family(start(*case), "ss")
    theta = torch.cat([torch.tensor(values, dtype=torch.float64)] * 2)[: len(made.theta)]
    solver = made.solver(theta)  # checks that no level rises
    assert solver.sigma[0] == 20.0 and solver.sigma[-1] == 0.01


def test_ss_stage_at_its_steps_end_moves_back_only() -> None:
    made = family(start("heun", {}, 3), "ss")
    place = made.blocks["weight"].stop - 1  # of the last step's stage
    slope = torch.func.jacfwd(lambda z: made.arrays(made.theta.index_put((torch.tensor(place),), z))[0])
    assert slope(made.theta[place])[5].item() != 0
    sigma = [
        made.solver(made.theta.index_put((torch.tensor(place),), torch.tensor(z).double())).sigma for z in (-0.1, 1)
    ]
    assert sigma[0][5] > sigma[0][6] == 0.01 and sigma[1][5] == sigma[1][6]


@pytest.mark.parametrize("kind", sorted({*FAMILIES} - {*APART}))
def test_derivatives(kind: str) -> None:
    """Forward and backward agree with differences, for every array."""
    solver = start("heun", {}, 2) if kind == "ss" else start("unipc", {"order": 2}, 4)
    made = family(solver, kind)
    theta = moved(made, 0.1, seed=3)
    if kind == "ss":
        theta = theta - 0.2 * (made.theta == 0)  # off the bound of the closing stages
    theta = theta.requires_grad_(True)
    outputs = range(1 if kind in ("full", "classical") else 0, 4)
    for i in outputs:
        assert torch.autograd.gradcheck(lambda t, i=i: made.arrays(t)[i], theta, check_forward_ad=True)


@pytest.mark.parametrize("kind", ["lms", "pc", "classical", "guided"])
@pytest.mark.parametrize("name", ["dpmpp", "unipc", "ipndm"])
def test_conversion_of_decoupled_times(kind: str, name: str) -> None:
    """Both are read back; they agree on coupled times and in noise form, and differ on decoupled ones in data form."""
    for convert in ("eval", "grid"):
        solver = start(name, {"order": 3}, 6, sigma_eval=shifted("edm", 6), convert=convert)
        assert_starts(family(solver, kind), solver)
        assert_starts(family(solver, kind, convert=convert), solver)
    coupled = start(name, {"order": 3}, 6)
    made = [family(coupled, kind, convert=convert) for convert in ("eval", "grid")]
    assert torch.allclose(made[0].theta, made[1].theta, atol=1e-13)
    theta = made[0].theta + 0.5 * made[0].moves("shift").sum(1)  # from 0
    tables = [m.solver(theta).weight for m in made]
    assert torch.allclose(*tables, atol=1e-11) == (name == "ipndm")


def test_increments_of_what_a_form_cannot_express_are_infinite() -> None:
    assert increments(start("ipndm", {}, 5), "eps").isfinite().all()
    solver = start("ddim", {}, 3)
    scaled = solver.replace(start=solver.start * torch.tensor([1.0, 1.1, 1.0, 1.0], dtype=torch.float64))
    assert not any(increments(scaled, form).isfinite().any() for form in ("x0", "eps"))


@pytest.mark.parametrize(("call", "message"), [
    (lambda: family(start("unipc", {}, 6), "rk"), "unknown family 'rk'; .*: cfg, classical, columns, full, .*, ss"),
    (lambda: family(start("unipc", {}, 6), "full", 3), "family 'full' has no order"),
    (lambda: family(start("unipc", {}, 6), convert="both"), "unknown convert 'both'; choose one of: eval, grid"),
    (lambda: family(start("unipc", {}, 6), "pc", 2), "order 2 is too low for pc to hold unipc3; ask for order >= 3"),
    (lambda: family(start("ipndm", {}, 6), "pc", 1), "order 1 is too low for pc to hold ipndm3; ask for order >= 2"),
    (lambda: family(start("unipc", {}, 6), "ss"), "ss cannot hold unipc3: its steps use outputs of earlier steps"),
    (lambda: family(start("heun", {}, 3), "ss", 3), "ss cannot hold heun: its steps use outputs of earlier steps"),
    (lambda: family(start("ddim", {}, 3), "ss", 0), "order 0: a step of ss takes 1 to 3 stages here"),
    (lambda: family(start("ddim", {}, 3), "ss", 4), "order 4: a step of ss takes 1 to 3 stages here"),
    (lambda: family(start("heun", {}, 3), "lms"), "take a solver with one evaluation a step, or, .* family 'ss'"),
    (lambda: family(start("heun", {}, 3), "cfg", guidance=2.0), "take a solver with one evaluation a step"),
    (lambda: family(start("heun", {}, 3), "classical"), "heun: this family needs a multistep start"),
    (lambda: family(s4s.solver("heun", [20.0, 1.0, 0.0]), "ss"), "ends at level 0, learned solvers end above"),
])  # fmt: skip
def test_errors(call: Callable[[], Family], message: str) -> None:
    with pytest.raises(s4s.Error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
