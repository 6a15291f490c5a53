"""The textbook solvers: order of convergence, the facts every table must satisfy, options and errors."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from convergence import HEAD, Row, rows, slopes
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import TwoPoints
from torch import Tensor

import s4s
from s4s import classical, textbook

ROWS = rows()
PAGE = (Path(__file__).parents[2] / "docs" / "convergence.md").read_text(encoding="utf-8")
TABLE = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line[:2] == "| "][1:]
SAID = {label: [float(number) for number in numbers] for label, *numbers in TABLE}  # theory, Gaussian, points; twice
every_solver = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.label)
GRID = s4s.grid("edm", s4s.EDM(), nfe=6)
ZERO = s4s.grid("edm", s4s.EDM(), nfe=6, end_at_zero=True)


@st.composite
def grids(draw: st.DrawFn) -> Tensor:
    """4 to 7 steps of a ratio between 1.1 and 20 each, from 80 down."""
    steps = draw(st.lists(st.floats(0.1, 3.0), min_size=4, max_size=7))
    return 80 * torch.exp(-torch.cumsum(torch.tensor([0.0, *steps], dtype=torch.float64), 0))


@pytest.mark.parametrize("kind", ["equal", "graded"])
@every_solver
def test_order(row: Row, kind: str) -> None:
    """As theory says it, where it is at its limit, and as the page says that it was measured."""
    measured, theory = slopes(row, kind), float(getattr(row, kind))
    if row.late != kind:
        torch.testing.assert_close(measured, torch.full_like(measured, theory), rtol=0, atol=0.1)
    said = SAID[row.label][:3] if kind == "equal" else SAID[row.label][3:]
    assert said == pytest.approx([theory, *measured.tolist()], abs=0.006), "docs/convergence.md is not of today"


def test_the_page_of_orders_has_every_solver_and_says_what_its_program_says() -> None:
    assert [*SAID] == [row.label for row in ROWS]
    assert PAGE.startswith(HEAD), "run `python tests/shared/convergence.py > docs/convergence.md`"


def test_every_option_has_its_order_measured() -> None:
    measured = {(row.name, key, value) for row in ROWS for key, value in row.options.items()}
    for name, options in s4s.solvers().items():
        assert name in {row.name for row in ROWS}
        choices = {(name, key, c) for key, option in options.items() for c in option.get("choices", ())}
        defaults = {(name, key, option["default"]) for key, option in options.items()}
        assert choices - defaults <= measured


def test_third_order_multistep_lacks_half_its_curvature(monkeypatch: pytest.MonkeyPatch) -> None:
    """DPM-Solver++(3M) as published is of order 2; with ``2 phi_3`` instead of ``phi_3`` it is of order 3."""
    transfer = textbook.transfer

    def doubled(*args: Any) -> tuple[Tensor | float, list[Tensor]]:
        carry, phi = transfer(*args)
        return carry, [*phi[:2], *(2 * p for p in phi[2:])]

    monkeypatch.setattr(textbook, "transfer", doubled)
    order = slopes(Row("dpmpp", 3, 3, {"order": 3}), "graded")
    torch.testing.assert_close(order, torch.full_like(order, 3.0), rtol=0, atol=0.1)


@settings(max_examples=10, deadline=None)
@given(grid=grids())
@every_solver
def test_exact_on_constant_denoiser(row: Row, grid: Tensor) -> None:
    solver = s4s.solver(row.name, grid, **row.options)
    share = solver.sigma / solver.sigma[0]
    torch.testing.assert_close(solver.start, share, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(solver.weight.sum(1), 1 - share, rtol=1e-9, atol=1e-10)
    assert solver.sigma[0] == grid[0] and solver.sigma[-1] == grid[-1]


@settings(max_examples=5, deadline=None)
@given(grid=grids(), ratio=st.floats(0.5, 1.0), convert=st.sampled_from(["eval", "grid"]))
@every_solver
def test_decoupled_times_keep_shifts(row: Row, grid: Tensor, ratio: float, convert: Any) -> None:
    """A constant added to data and states goes through: start and weights of a node sum to 1."""
    levels = s4s.solver(row.name, grid, **row.options).sigma[:-1]
    solver = s4s.solver(row.name, grid, ratio * levels, convert, **row.options)
    assert torch.equal(solver.sigma_eval, ratio * levels)
    total = solver.start + solver.weight.sum(1)
    size = solver.weight.abs().sum(1) + solver.start.abs()
    assert ((total - 1).abs() <= 1e-12 * size).all()


@pytest.mark.parametrize("row", [row for row in ROWS if row.options.get("variant") != "tab"], ids=lambda row: row.label)
def test_units_do_not_matter(row: Row) -> None:
    """Not so for deis-tab, which interpolates in a time of its own."""
    one, other = (s4s.solver(row.name, k * GRID, **row.options) for k in (1.0, 7.0))
    torch.testing.assert_close(one.weight, other.weight, rtol=1e-9, atol=1e-10)


@every_solver
def test_name_and_record(row: Row, tmp_path: Any) -> None:
    solver = s4s.solver(row.name, GRID, **row.options)
    assert solver.provenance == {"solver": row.name, "options": row.options}
    again = s4s.solver(solver.provenance["solver"], GRID, **json.loads(json.dumps(solver.provenance["options"])))
    assert torch.equal(again.weight, solver.weight) and again.name == solver.name
    solver.save(tmp_path / "solver.json")
    assert torch.equal(s4s.load_solver(tmp_path / "solver.json").weight, solver.weight)


def test_names_are_different() -> None:
    assert len({row.label for row in ROWS}) == len(ROWS)
    names = {s4s.solver(name, GRID).name for name in s4s.solvers()}
    assert names == {"ddim", "heun", "ipndm3", "deis3", "dpmpp3", "unipc3"}


@every_solver
def test_differentiable_and_vectorised(row: Row) -> None:
    """Forward and backward derivatives agree; vmap over grids gives the tables of each."""

    def weight(grid: Tensor) -> Tensor:
        return classical.arrays(row.name, grid, **row.options)[3]

    forward, backward = torch.func.jacfwd(weight)(GRID), torch.autograd.functional.jacobian(weight, GRID)
    torch.testing.assert_close(forward, backward, rtol=1e-9, atol=1e-9)
    if row.name != "heun":
        both = torch.func.vmap(weight)(torch.stack([GRID, 2 * GRID]))
        torch.testing.assert_close(both[1], weight(2 * GRID), rtol=1e-9, atol=1e-11)


@every_solver
def test_gradient_from_grid_to_sample(row: Row) -> None:
    x_T = torch.tensor([3.0, -2.0], dtype=torch.float64)
    grid = torch.tensor([4.0, 2.5, 1.4, 0.9, 0.5], dtype=torch.float64, requires_grad=True)
    seen = (0.97 * s4s.solver(row.name, grid.detach(), **row.options).sigma[:-1]).requires_grad_()

    def run(grid: Tensor, seen: Tensor) -> Tensor:
        solver = s4s.solver(row.name, grid, seen, "grid", **row.options)
        return s4s.sample(solver, TwoPoints().denoise, x_T)

    assert torch.autograd.gradcheck(run, (grid, seen))


@pytest.mark.parametrize(("name", "options", "nfe"), [
    ("ddim", {}, 6), ("ipndm", {"order": 4}, 6), ("deis", {}, 6), ("dpmpp", {}, 6), ("dpmpp", {"prediction": "eps"}, 6),
    ("unipc", {}, 6), ("unipc", {"prediction": "eps", "variant": "bh1"}, 6), ("heun", {}, 11),
    ("dpmpp", {"singlestep": True, "orders": [3, 3, 2, 2, 1, 1]}, 12),
])  # fmt: skip
def test_last_level_zero(name: str, options: dict[str, Any], nfe: int) -> None:
    """Exact on a constant denoiser, and finite derivatives, also where the grid ends at 0."""
    solver = s4s.solver(name, ZERO, **options)
    assert solver.nfe == nfe and solver.sigma[-1] == 0
    constant = torch.ones(1, 3, dtype=torch.float64)
    x = s4s.sample(solver, lambda x, sigma: constant, 80 * constant)
    torch.testing.assert_close(x, constant, rtol=1e-10, atol=1e-10)
    jacobian = torch.func.jacfwd(lambda grid: classical.arrays(name, grid, **options)[3])(ZERO)
    assert jacobian.isfinite().all()


def test_last_step_to_zero_is_the_denoiser() -> None:
    for name in ("ddim", "dpmpp", "unipc", "heun"):
        last = s4s.solver(name, ZERO).weight[-1]
        torch.testing.assert_close(last, torch.eye(len(last), dtype=torch.float64)[-1], rtol=0, atol=1e-14)


def test_solvers_that_coincide() -> None:
    equal = torch.linspace(80, 0.5, 8, dtype=torch.float64)
    ddim = s4s.solver("ddim", equal).weight
    for name in ("dpmpp", "ipndm", "deis"):
        torch.testing.assert_close(s4s.solver(name, equal, order=1).weight, ddim)
    for order in (2, 3, 4):  # on equal steps
        ipndm, deis = (s4s.solver(name, equal, order=order).weight for name in ("ipndm", "deis"))
        torch.testing.assert_close(ipndm, deis, rtol=1e-9, atol=1e-9)
    log = s4s.grid("logsnr", s4s.EDM(), nfe=6)
    inner = (log[:-1] * log[1:]).sqrt()
    torch.testing.assert_close(
        s4s.solver("dpmpp", log, order=2, singlestep=True).weight,
        s4s.solver("dpmpp", log, order=2, singlestep=True, inner=inner).weight,
    )


def test_where_noise_becomes_data() -> None:
    """With decoupled times ``eval`` takes the network's D as it is, ``grid`` rebuilds it at the grid's level."""
    seen, x_T = 0.9 * GRID[:-1], torch.tensor([30.0, -80.0], dtype=torch.float64)
    denoise = TwoPoints().denoise
    x_eval = x_grid = x_T
    for s, s_next, level in zip(GRID[:-1], GRID[1:], seen, strict=True):
        x_eval = s_next / s * x_eval + (1 - s_next / s) * denoise(x_eval, level)
        x_grid = x_grid + (s_next - s) * (x_grid - denoise(x_grid, level)) / level
    torch.testing.assert_close(s4s.sample(s4s.solver("ddim", GRID, seen), denoise, x_T), x_eval)
    torch.testing.assert_close(s4s.sample(s4s.solver("ddim", GRID, seen, "grid"), denoise, x_T), x_grid)


def test_evaluations_and_intervals() -> None:
    assert classical.intervals("unipc", 6) == 6
    assert classical.intervals("heun", 6) == 3 and classical.intervals("heun", 5, end_at_zero=True) == 3
    assert classical.intervals("dpmpp", 6, singlestep=True) == 2
    assert classical.intervals("dpmpp", 5, singlestep=True, orders=[3, 2]) == 2
    for row in ROWS:
        nfe = s4s.solver(row.name, GRID, **row.options).nfe
        assert classical.intervals(row.name, nfe, **row.options) == 6


@pytest.mark.parametrize(("call", "message"), [
    (lambda: s4s.solver(["ipndm"], GRID), r"unknown solver \['ipndm'\]; choose one of: ddim, deis"),
    (lambda: s4s.solver("dpm++", GRID), r"unknown solver 'dpm\+\+'; choose one of: ddim, deis, dpmpp, heun,"),
    (lambda: s4s.solver("ddim", GRID, order=2), "solver 'ddim' has no option 'order'; its options: none"),
    (lambda: s4s.solver("unipc", GRID, orders=2), "has no option 'orders'; its options: order, variant, prediction"),
    (lambda: s4s.solver("unipc", GRID, order=4), "unknown order of solver 'unipc' 4; choose one of: 1, 2, 3"),
    (lambda: s4s.solver("unipc", GRID, order=True), "unknown order .* True"),
    (lambda: s4s.solver("unipc", GRID, lower_order_final=1), "unknown lower_order_final .* 1"),
    (lambda: s4s.solver("dpmpp", GRID, variant="bh1"), "unknown variant .*'bh1'; choose one of: midpoint, taylor"),
    (lambda: s4s.solver("dpmpp", GRID, variant="taylor"), "'taylor' exists at order 2 only, not at order 3"),
    (lambda: s4s.solver("dpmpp", GRID[:3]), "dpmpp of order 3 needs a grid of at least 3 steps, got 2"),
    (lambda: s4s.solver("dpmpp", GRID, orders=[1]), "belong to singlestep=True"),
    (lambda: s4s.solver("dpmpp", GRID, singlestep=True, orders=[3, 3]), "for each of the 6 steps"),
    (lambda: s4s.solver("dpmpp", GRID, singlestep=True, inner=[3.0]), "inner holds 1 levels"),
    (lambda: s4s.solver("dpmpp", GRID, singlestep=True, inner=12 * [90.0]), "noise levels must fall"),
    (lambda: s4s.solver("dpmpp", GRID, singlestep=True, lower_order_final=False), "means nothing with singlestep"),
    (lambda: s4s.solver("dpmpp", ZERO, lower_order_final=False), "dpmpp3-nolof cannot step to level 0"),
    (lambda: s4s.solver("deis", ZERO, variant="tab"), "deis3-tab cannot step to level 0"),
    (lambda: s4s.solver("ddim", GRID, GRID), r"sigma_eval has shape \[7\], but ddim makes 6 evaluations"),
    (lambda: s4s.solver("unipc", ZERO, lower_order_final=False), "unipc3-nolof cannot step to level 0"),
    (lambda: s4s.solver("unipc", [3.0, 2.0, 1.0, 0.0], prediction="eps", lower_order_final=False), "step to level 0"),
    (lambda: s4s.solver("heun", [1e300, 1e-300]), r"heun has no finite weights on this grid .* from 1e\+300 to 1e-300"),
    (lambda: s4s.solver("ddim", GRID, 0 * GRID[:-1]), "sigma_eval must be positive"),
    (lambda: s4s.solver("ipndm", GRID, GRID[:-1] * float("nan")), "sigma_eval must be positive numbers"),
    (lambda: s4s.solver("ddim", GRID, GRID[:-1], "both"), "unknown convert 'both'; choose one of: eval, grid"),
    (lambda: s4s.solver("ddim", [3.0, 3.0, 1.0]), r"must fall: sigma\[0\] = 3 is followed by sigma\[1\] = 3"),
    (lambda: s4s.solver("ddim", [3.0]), "a grid is at least two noise levels"),
    (lambda: s4s.solver("ddim", "edm"), "a grid of noise levels is not a rectangular array of numbers"),
    (lambda: s4s.solver("dpmpp", GRID, singlestep=True, orders="ab"), "orders = 'a' must be a whole number"),
    (lambda: s4s.solver("dpmpp", GRID, singlestep=True, orders=3), "must hold a number of stages from 1 to 3"),
    (lambda: s4s.solver("dpmpp", GRID, singlestep=True, inner=3.0), "inner must be levels in a row"),
    (lambda: s4s.solver("dpmpp", GRID, singlestep=True, inner=["a"] * 12), "inner is not a rectangular array"),
    (lambda: classical.intervals("dpm++", 6), "unknown solver 'dpm"),
    (lambda: classical.intervals("unipc", 6, order="3"), "unknown order of solver 'unipc' '3'"),
    (lambda: classical.intervals("ddim", 6, order=2), "solver 'ddim' has no option 'order'"),
    (lambda: classical.intervals("ddim", "a"), "nfe = 'a' must be a whole number"),
    (lambda: classical.intervals("heun", 5), "heun spends 2 evaluations a step: it has no grid of nfe 5"),
    (lambda: classical.intervals("dpmpp", 4, singlestep=True), "spends 3 evaluations a step"),
])  # fmt: skip
def test_errors(call: Any, message: str) -> None:
    with pytest.raises(s4s.Error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_every_solver_ends_at_level_0_or_says_in_one_line_that_it_cannot() -> None:
    for name, options in ((name, dict(zip(known, values, strict=True)))
                          for name, listed in classical.solvers().items()
                          for known in [[key for key in listed if "choices" in listed[key]]]
                          for values in itertools.product(*(listed[key]["choices"] for key in known))):  # fmt: skip
        for grid in (ZERO, [3.0, 0.0], [5.0, 5e-324, 0.0], [1e308, 1e-3, 1e-300, 0.0]):
            try:
                assert s4s.solver(name, grid, **options).sigma[-1] == 0
            except s4s.Error as error:
                assert "\n" not in str(error)


def test_a_solver_of_more_evaluations_than_it_says_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(trace: textbook.Trace, grid: Tensor, share: float = 0.5) -> Tensor:
        x = trace.x_T
        for s in grid[:-1]:
            x = share * trace.denoise(x, s) + (1 - share) * trace.denoise(x, s)
        return x

    monkeypatch.setitem(textbook.SOLVERS, "twice", twice)
    assert s4s.solvers()["twice"] == {"share": {"default": 0.5}}
    with pytest.raises(s4s.Error, match="twice calls the network more than 3 times on this grid"):
        s4s.solver("twice", [8.0, 4.0, 2.0, 1.0], share=0.25)
