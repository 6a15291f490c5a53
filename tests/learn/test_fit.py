"""Families start exactly at the solver they are given; fits end below it and never break."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import s4s
from s4s.errors import Notice
from s4s.learn.distance import perceptual, total
from s4s.learn.distances import distance
from s4s.learn.family import FAMILIES, family
from s4s.learn.jacobian import gauss_newton
from s4s.learn.methods import APART, METHODS
from s4s.learn.moments import derivatives, gap, moments
from s4s.learn.robust import robust
from s4s.learn.sketch import Point, sketch
from s4s.solver import Denoise

PROCESS = s4s.EDM(0.002, 80.0)
STARTS = [("ddim", {}), *((name, {"order": 3}) for name in ("dpmpp", "unipc", "ipndm", "deis"))]


def net(x: Tensor, sigma: Tensor) -> Tensor:
    """Posterior mean of three Gaussian blobs in 4 dimensions; a small nonlinear network with per-sample levels."""
    centres = torch.tensor([[1.0, 0.5, -0.5, 0.0], [-1.0, 0.0, 0.5, 1.0], [0.2, -1.0, 0.0, -0.7]]).to(x)
    v = 0.04 + sigma.to(x)[:, None] ** 2
    score = -((x[:, None] - centres) ** 2).sum(-1) / (2 * v)
    mean = (score.softmax(1)[..., None] * centres).sum(1)
    return mean + 0.04 / v * (x - mean)


denoise = PROCESS.denoiser(net, prediction="x0")


@pytest.fixture(scope="module")
def teacher() -> s4s.TeacherSet:
    solver = s4s.solver("dpmpp", s4s.grid("logsnr", PROCESS, 40), order=3)
    return s4s.teacher_set(solver, denoise, n=160, shape=(4,), seed=7, dtype=torch.float64)


@pytest.mark.parametrize(("name", "options"), STARTS)
@pytest.mark.parametrize("kind", sorted({*FAMILIES} - {*APART}))
@pytest.mark.parametrize("schedule", ["logsnr", "edm", "quadratic"])
def test_families_start_at_their_solver(name: str, options: dict[str, int], kind: str, schedule: str) -> None:
    start = s4s.solver(name, s4s.grid(schedule, PROCESS, 5), **options)
    if kind == "ss" and name != "ddim":
        with pytest.raises(s4s.Error, match="use outputs of earlier steps"):
            family(start, kind)
        return
    made = family(start, kind)
    solver = made.solver(made.theta)
    for key in ("sigma", "sigma_eval", "start", "weight"):
        value, target = getattr(solver, key), getattr(start, key)
        assert (value - target).abs().max() <= 1e-12 * target.abs().max(), key


def test_decoupled_start_is_read_back() -> None:
    sigma = s4s.grid("edm", PROCESS, 5)
    times = sigma[:-1].clone()
    times[2] = (sigma[2] * sigma[3]).sqrt() * 1.2
    start = s4s.solver("ipndm", sigma, sigma_eval=times)
    made = family(start, "lms")
    assert torch.allclose(made.solver(made.theta).sigma_eval, times, rtol=1e-12)


@given(st.lists(st.floats(-60, 60), min_size=8, max_size=8))
@settings(max_examples=100, deadline=None)
def test_levels_fall_whatever_the_parameters_and_another_family_can_start_there(values: list[float]) -> None:
    start = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 5))
    made = family(start, "classical")
    theta = made.moves("grid", "shift") @ torch.tensor(values, dtype=torch.float64)
    sigma, sigma_eval, *_ = made.arrays(theta)
    assert (sigma.diff() < 0).all() and sigma[0] == 80.0 and sigma[-1] == 0.002
    assert family(made.solver(theta).replace(name=start.name, provenance=start.provenance), "lms").kind == "lms"
    lam, moved = -sigma.log(), -sigma_eval.log()
    assert ((moved[1:] - lam[1:-1]).abs() <= torch.maximum(lam.diff()[1:], lam.diff()[:-1]) / 2 + 1e-12).all()


@pytest.mark.parametrize("by", ["differences", "reverse mode"])
@pytest.mark.parametrize("tolerance", [math.inf, 0.02])
@pytest.mark.parametrize("kind", sorted({*FAMILIES} - {*APART}))
def test_gradients_are_the_losses(kind: str, tolerance: float, by: str, teacher: s4s.TeacherSet) -> None:
    name, steps = ("heun", 3) if kind == "ss" else ("ipndm", 5)
    made = family(s4s.solver(name, s4s.grid("edm", PROCESS, steps)), kind)
    x_T, y, d = teacher.x_T[:32], teacher.y[:32], distance("l2")
    theta = (made.theta + 0.01).requires_grad_(True)
    loss = robust(d(s4s.sample(made.solver(theta), denoise, x_T), y), tolerance).mean()
    (exact,) = torch.autograd.grad(loss / 2, theta)
    if by == "differences":
        g = gauss_newton(made.arrays, theta.detach(), denoise, d, x_T, y, tolerance=tolerance)
    else:
        (g,) = sketch([Point(made.arrays, theta, x_T, y)], denoise, d, tolerance=tolerance)
    assert g.loss == pytest.approx(loss.item(), rel=1e-6)
    assert (g.gradient - exact).abs().max() < 5e-3 * exact.abs().max()
    assert torch.linalg.eigvalsh(g.curvature).min() > -1e-12


@pytest.mark.parametrize(("nfe", "cycle", "felt"), [(5, ("grid",), 10), (5, ("shift",), 10), (8, ("grid",), 28)])
def test_a_level_costs_evaluations_from_its_own_step_on(
    nfe: int, cycle: tuple[str, ...], felt: int, teacher: s4s.TeacherSet
) -> None:
    """N - 1 levels are felt in 1 to N - 1 evaluations, although each step size moves them all."""
    made = family(s4s.solver("ipndm", s4s.grid("edm", PROCESS, nfe)), "lms")
    moves = made.moves(*cycle)
    g = gauss_newton(
        lambda part: made.arrays(made.theta + moves @ part),
        moves.new_zeros(moves.shape[1]), denoise, distance("l2"), teacher.x_T[:8], teacher.y[:8],
    )  # fmt: skip
    assert g.evaluations == nfe + felt == nfe + nfe * (nfe - 1) // 2


def test_a_decoupled_time_near_its_bound_keeps_its_own_small_derivative(teacher: s4s.TeacherSet) -> None:
    made = family(s4s.solver("unipc", s4s.grid("logsnr", PROCESS, 5), order=3), "lms")
    bound = made.blocks["shift"].start + 1
    theta = made.theta.clone().index_fill(0, torch.tensor(bound), 12.0).requires_grad_(True)
    x_T, y, d = teacher.x_T[:32], teacher.y[:32], distance("l2")
    (exact,) = torch.autograd.grad(d(s4s.sample(made.solver(theta), denoise, x_T), y).mean() / 2, theta)
    assert 0 < exact[bound].abs() < 1e-9 * exact.abs().max(), "tanh(12) hardly moves"
    g = gauss_newton(made.arrays, theta.detach(), denoise, d, x_T.float(), y.float())
    assert g.gradient[bound] == pytest.approx(exact[bound].item(), rel=0.05)


def test_moments_are_of_the_batch_and_their_gradient_is_the_losses(teacher: s4s.TeacherSet) -> None:
    made = family(s4s.solver("ipndm", s4s.grid("edm", PROCESS, 5)), "lms")
    x_T, y, d = teacher.x_T[:32], teacher.y[:32], distance("l2")
    theta = (made.theta + 0.01).requires_grad_(True)
    x = s4s.sample(made.solver(theta), denoise, x_T)
    a, b = (torch.stack([z.flatten(1).mean(0), z.flatten(1).std(0, correction=0)]) for z in (x, y))
    expected = (a - b).square().sum(0).mean()
    assert gap([(x[:20].flatten(1), y[:20].flatten(1)), (x[20:].flatten(1), y[20:].flatten(1))]) == pytest.approx(
        expected.item(), rel=1e-3
    )
    (exact,) = torch.autograd.grad((d(x, y).mean() + 3 * expected) / 2, theta)
    g = gauss_newton(made.arrays, theta.detach(), denoise, d, x_T, y, moments=3.0)
    assert g.loss == pytest.approx((d(x, y).mean() + 3 * expected).item(), rel=1e-3)
    assert (g.gradient - exact).abs().max() < 5e-3 * exact.abs().max()
    assert torch.linalg.eigvalsh(g.curvature).min() > -1e-12


def test_moments_have_these_derivatives() -> None:
    draw = torch.Generator().manual_seed(0)
    features, *tangents = torch.randn(4, 30, 5, generator=draw, dtype=torch.float64)
    features[:, 0] = 3.0  # never varies
    found = derivatives(features, tangents)
    assert found.shape == (3, 2, 5)
    for one, tangent in zip(found, tangents, strict=True):
        torch.testing.assert_close(one, torch.func.jvp(moments, (features,), (tangent,))[1])


def test_moments_keep_the_spread(teacher: s4s.TeacherSet) -> None:
    start = s4s.solver("dpmpp", s4s.grid("quadratic", PROCESS, 5), order=3)
    plain, kept = (s4s.fit(start, denoise, teacher, "s4s", rounds=8, moments=m) for m in (0.0, 10.0))
    assert kept.val_loss < kept.start_loss and kept.solver.provenance["moments"] == 10.0
    x_T, y = teacher.x_T[-40:], teacher.y[-40:]
    left = [gap([(s4s.sample(r.solver, denoise, x_T).flatten(1), y.flatten(1))]) for r in (plain, kept)]
    assert left[1] < left[0]


def test_with_moments_rounds_take_large_batches_and_the_race_goes_without(teacher: s4s.TeacherSet) -> None:
    start, whole = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 5)), 120
    plain, both = (
        s4s.fit(start, denoise, teacher, "s4s-alt", rounds=2, patience=9, moments=moments) for moments in (0.0, 10.0)
    )
    assert [record["batch"] for record in plain.history] == [64] * 2
    assert [record["batch"] for record in both.history] == [whole] * 2
    assert [one["loss"] for one in both.raced] == [one["loss"] for one in plain.raced]
    assert both.start_loss > plain.start_loss


def test_where_moments_prefer_the_start_the_last_phase_begins_there(teacher: s4s.TeacherSet) -> None:
    """Of samples that go with other noises, the mean is nearest: without moments the spread is soon lost."""
    start = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 5))
    shuffled = replace(teacher, y=teacher.y.roll(1, 0))
    found = s4s.fit(start, denoise, shuffled, "s4s-alt", rounds=2, moments=1e4)
    x_T, y = teacher.x_T[-40:], shuffled.y[-40:]
    ld3 = s4s.fit(start, denoise, shuffled, "ld3", rounds=2).solver
    at_start, between, at_end = (
        gap([(s4s.sample(solver, denoise, x_T).flatten(1), y.flatten(1))]) for solver in (start, ld3, found.solver)
    )
    assert between > 2 * at_start and at_end <= 1.1 * at_start
    assert found.val_loss <= found.start_loss


def test_robust_loss_counts_near_samples_in_full_and_far_ones_less() -> None:
    d = torch.tensor([1e-6, 1.0, 1e3], dtype=torch.float64)
    assert robust(d, math.inf) is d
    near, middle, far = robust(d, 0.5).tolist()
    assert near == pytest.approx(1e-6, rel=1e-5)
    assert middle == pytest.approx(0.5 * math.log(3)) and far < 4


@pytest.mark.parametrize("method", sorted(name for name, spec in METHODS.items() if spec.family not in APART))
def test_every_method_improves_its_start(method: str, teacher: s4s.TeacherSet) -> None:
    start = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 5))
    result = s4s.fit(start, denoise, teacher, method, rounds=6)
    assert result.val_loss < 0.8 * result.start_loss
    assert result.solver.nfe == start.nfe and result.evaluations > 0
    x_T, y = teacher.x_T[-40:], teacher.y[-40:]
    again = distance("l2")(s4s.sample(result.solver, denoise, x_T), y).mean().item()
    assert again == pytest.approx(result.val_loss, rel=1e-9)


def test_same_seed_same_bytes(teacher: s4s.TeacherSet, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("fits")
    start = s4s.solver("dpmpp", s4s.grid("logsnr", PROCESS, 4))
    for name in ("a", "b"):
        s4s.fit(start, denoise, teacher, "s4s-alt", rounds=2, seed=3).solver.save(folder / name)
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()


def test_moved_noises_stay_in_the_ball_and_lower_the_loss(teacher: s4s.TeacherSet) -> None:
    start = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 4))
    plain = s4s.fit(start, denoise, teacher, "s4s", rounds=8, radius=0.0)
    relaxed = s4s.fit(start, denoise, teacher, "s4s", rounds=8, radius=0.02)
    assert relaxed.history[-1]["loss"] < plain.history[-1]["loss"]
    assert relaxed.val_loss <= relaxed.start_loss


def test_noises_of_samples_that_are_drawn_but_once_move_too() -> None:
    strong = s4s.solver("dpmpp", s4s.grid("logsnr", PROCESS, 20))
    many = s4s.teacher_set(strong, denoise, n=700, shape=(4,), dtype=torch.float64)
    start = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 4))
    losses = [s4s.fit(start, denoise, many, "s4s", rounds=1, radius=r).history[0]["loss"] for r in (0.0, 0.002, 0.01)]
    assert losses == sorted(losses, reverse=True) and losses[2] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "s5s"}, "unknown method 's5s'; choose one of: bns, guided, joint, ld3, s4s, s4s-alt"),
        ({"distance": "l3"}, "unknown distance 'l3'"),
        ({"distance": ["l2"]}, r"unknown distance \['l2'\]"),
        ({"method": ["s4s"]}, r"unknown method \['s4s'\]"),
        ({"radius": -1.0}, "radius = -1.0 must not be negative"),
        ({"moments": -1.0}, "moments = -1.0 must not be negative"),
        ({"moments": 1.0, "microbatch": 8}, "moments are of whole batches: leave out microbatch, or moments"),
        ({"validation": 160}, "validation = 160"),
        ({"validation": 2.5}, "validation = 2.5 must be a whole number"),
        ({"seed": 1.5}, "seed = 1.5 must be a whole number"),
        ({"microbatch": 2.5}, "microbatch = 2.5 must be a whole number of at least 1"),
        ({"radius": "x"}, "radius = 'x' must be a finite number"),
        ({"moments": math.inf}, "moments = inf must be a finite number"),
        ({"perturbation": 0.0}, "perturbation = 0 must be positive"),
        ({"checkpoint": "a"}, "checkpoint = 'a' must be True, False or None"),
        ({"distance": {"l2": 0.0}}, "a sum of distances needs a positive weight"),
        ({"order": 2, "method": "s4s"}, "order 2 is below the 3 outputs"),
        ({"order": "3"}, "order = '3' must be a whole number"),
        ({"progress": True}, "progress = True must be text, which stands before the bar, or None"),
        ({"distance": {"l2": "a"}}, "the weight of 'l2' = 'a' must be a finite number"),
    ],
)
def test_bad_input_is_one_line(change: dict[str, object], message: str, teacher: s4s.TeacherSet) -> None:
    start = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 5))
    with pytest.raises(s4s.Error, match=message.replace("(", r"\(")) as caught:
        s4s.fit(start, denoise, teacher, **change)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("start", [None, "ipndm", ["ipndm"], s4s.Bundle({1: s4s.solver("ddim", [2.0, 1.0])})])
def test_what_is_no_start_is_refused(start: object, teacher: s4s.TeacherSet) -> None:
    with pytest.raises(s4s.Error, match=r"a fit starts at a solver or a list of them, not at a (NoneType|str|Bundle)"):
        s4s.fit(start, denoise, teacher)  # type: ignore[arg-type]


def test_what_is_no_teacher_set_is_refused(teacher: s4s.TeacherSet) -> None:
    start = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 5))
    with pytest.raises(s4s.Error, match=r"a teacher set is needed, .*, got a Tensor"):
        s4s.fit(start, denoise, teacher.y)  # type: ignore[arg-type]


@pytest.mark.parametrize(("change", "message"), [
    ({"solver": None}, "a solver is needed, got a NoneType"),
    ({"denoise": 3}, "denoise must be a function"),
    ({"condition": torch.zeros(4)}, "condition must be a function, such as model.condition, got a Tensor"),
    ({"denoise": lambda rows: denoise}, r"denoise must take a state and a level; .* needs condition= too, such as"),
    ({"condition": torch.zeros}, r"with condition=, denoise must take its rows and give the network, as model\.den"),
    ({"device": "gpu"}, "device 'gpu' is not here"),
    ({"dtype": "float32"}, "dtype = 'float32' must be one of torch's for floating point numbers"),
    ({"dtype": torch.int32}, "dtype = torch.int32 must be one of torch's"),
    ({"progress": True}, "progress = True must be text"),
])  # fmt: skip
def test_what_cannot_be_a_teacher_is_one_line(change: dict[str, Any], message: str) -> None:
    given = {"solver": s4s.solver("ddim", s4s.grid("edm", PROCESS, 3)), "denoise": denoise, "n": 4, "shape": (2,)}
    with pytest.raises(s4s.Error, match=message):
        s4s.teacher_set(**given | change)


def test_samples_that_are_not_finite_are_refused(teacher: s4s.TeacherSet) -> None:
    y = teacher.y.clone()
    y[[3, 9], 0] = math.nan
    start = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 5))
    with pytest.raises(s4s.Error, match="2 of the teacher's 160 samples are not finite, the first is number 3"):
        s4s.fit(start, denoise, replace(teacher, y=y))


@pytest.mark.parametrize("first", [0, 1])
def test_each_start_of_several_keeps_where_its_noise_becomes_data(first: int, teacher: s4s.TeacherSet) -> None:
    sigma = s4s.grid("edm", PROCESS, 4)
    times = sigma[:-1] * torch.tensor([1.0, 1.0, 1.05, 1.0], dtype=torch.float64)
    both = [s4s.solver("dpmpp", sigma), s4s.solver("dpmpp", sigma, sigma_eval=times, convert="grid")]
    found = s4s.fit([both[first], both[1 - first]], denoise, teacher, "ld3", rounds=1).solver
    assert found.provenance["convert"] == ("grid" if "convert" in found.provenance["start_provenance"] else "eval")


@pytest.mark.parametrize("n", [2, 4, 6])
def test_few_samples_say_nothing_of_more(n: int, teacher: s4s.TeacherSet) -> None:
    """A single one has no spread, and one that is met exactly is infinitely near."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", Notice)
        found = s4s.fit(s4s.solver("ddim", s4s.grid("edm", PROCESS, 4)), denoise, teacher.part(0, n), "s4s", rounds=1)
    assert not any("samples; more of those" in note for note in found.notes)


def test_start_from_another_level_is_refused(teacher: s4s.TeacherSet) -> None:
    start = s4s.solver("ipndm", s4s.grid("edm", s4s.EDM(0.002, 40.0), 5))
    with pytest.raises(s4s.Error, match="starts at level 40"):
        s4s.fit(start, denoise, teacher)


def test_distances() -> None:
    a, b = torch.randn(3, 2, 4, 4, dtype=torch.float64), torch.randn(3, 2, 4, 4, dtype=torch.float64)
    assert torch.allclose(distance("l2")(a, b), ((a - b) ** 2).mean((1, 2, 3)))
    lpips = perceptual(lambda x: [x, 2 * x[:, :, ::2, ::2]])
    unit = [t / (t.norm(dim=1, keepdim=True) + 1e-4) for t in (a, b)]
    halves = [t / (t.norm(dim=1, keepdim=True) + 1e-4) for t in (2 * a[:, :, ::2, ::2], 2 * b[:, :, ::2, ::2])]
    expected = ((unit[0] - unit[1]) ** 2).sum(1).mean((1, 2)) + ((halves[0] - halves[1]) ** 2).sum(1).mean((1, 2))
    assert torch.allclose(lpips(a, b), expected)
    both = total((0.5, distance("l2")), (2.0, lpips))
    assert torch.allclose(both(a, b), 0.5 * distance("l2")(a, b) + 2 * lpips(a, b))


def test_microbatches_make_the_same_fit(teacher: s4s.TeacherSet) -> None:
    start = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 4), order=3)
    whole, parts = (
        s4s.fit(start, denoise, teacher, "s4s-alt", rounds=2, validation=40, radius=0.1, microbatch=size)
        for size in (None, 7)
    )
    assert parts.val_loss == pytest.approx(whole.val_loss, rel=1e-2) and whole.val_loss < whole.start_loss
    assert torch.allclose(parts.solver.weight, whole.solver.weight, rtol=1e-2, atol=1e-3)
    assert parts.evaluations > whole.evaluations, "the median distance of their parts takes evaluations of its own"
    with pytest.raises(s4s.Error, match="microbatch = 0"):
        s4s.fit(start, denoise, teacher, microbatch=0)


def test_every_sample_meets_its_own_condition() -> None:
    n, start = 96, s4s.solver("ipndm", s4s.grid("edm", PROCESS, 4), order=3)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    shifts = torch.linspace(-1, 1, n, dtype=torch.float64)[order, None].expand(n, 4)

    def under(rows: Tensor) -> Denoise:
        """The network moved by each sample's own shift; takes stacked copies of the rows."""

        def moved(x: Tensor, sigma: Tensor) -> Tensor:
            offset = rows.repeat(len(x) // len(rows), 1).to(x)
            return denoise(x - offset, sigma) + offset

        return moved

    strong = s4s.solver("dpmpp", s4s.grid("logsnr", PROCESS, 40), order=3)
    made = s4s.teacher_set(strong, under(shifts[:1]), n, (4,), dtype=torch.float64)
    x_T = made.x_T
    conditional = replace(made, y=s4s.sample(strong, under(shifts), x_T), condition=shifts)
    results = [
        s4s.fit(start, under, conditional, "s4s", rounds=2, validation=32, microbatch=size) for size in (None, 10)
    ]
    assert results[0].val_loss < 0.8 * results[0].start_loss
    assert results[1].val_loss == pytest.approx(results[0].val_loss, rel=1e-3)
    wrong = s4s.fit(start, under, replace(conditional, condition=shifts.flip(0)), "s4s", rounds=2, validation=32)
    assert wrong.start_loss > 2 * results[0].start_loss, "the conditions matter"
    assert conditional.part(3, 5).condition is not None and torch.equal(conditional.part(3, 5).condition, shifts[3:5])  # type: ignore[arg-type]


def blobs(x: Tensor, sigma: Tensor) -> Tensor:
    """Posterior mean of three narrow blobs in the plane."""
    centres = x.new_tensor([[1.0, 0.3], [-1.0, 0.8], [0.2, -1.0]])
    near = -(x[:, None] - centres).square().sum(2) / (2 * (sigma.to(x).reshape(-1, 1) ** 2 + 0.01))
    return near.softmax(1) @ centres


def test_a_start_is_not_kept_because_few_held_out_samples_happen_to_end_well_from_it() -> None:
    """One of 12 ends at another blob from whatever is learned, which rules the mean."""
    process = s4s.EDM(0.01, 20.0)
    strong = s4s.solver("dpmpp", s4s.grid("logsnr", process, 40), order=3)
    start = s4s.solver("ipndm", s4s.grid("even", process, 4, denoise=blobs, shape=(2,), dtype=torch.float64), order=3)
    few, many = (s4s.teacher_set(strong, blobs, n, (2,), seed, dtype=torch.float64) for n, seed in ((48, 8), (1000, 9)))
    with pytest.warns(Notice, match="a few of 12 held-out samples that end elsewhere put the mean distance above"):
        found = s4s.fit([start], blobs, few, validation=12, seed=8)
    assert found.val_loss > found.start_loss
    learned, begun = ((s4s.sample(each, blobs, many.x_T) - many.y).square().mean(1) for each in (found.solver, start))
    assert learned.median() < 1e-3 * begun.median() and learned.mean() < begun.mean()


def test_seconds_are_of_the_whole_fit(teacher: s4s.TeacherSet, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return denoise(x, sigma)

    monkeypatch.setattr(time, "perf_counter", lambda: float(calls))
    start = s4s.solver("ddim", s4s.grid("edm", PROCESS, 3))
    assert s4s.fit(start, counted, teacher, "ld3", rounds=1).seconds == calls > 0
