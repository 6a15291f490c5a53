"""The engine: curvature from random projections, what it falls back to, the race of starts, and what a fit says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from problems import TwoPoints
from torch import Tensor

import s4s
from s4s.errors import Notice
from s4s.learn.distances import distance
from s4s.learn.family import family
from s4s.learn.frozen import Frozen
from s4s.learn.jacobian import gauss_newton
from s4s.learn.memory import SavedBytes, recompute
from s4s.learn.objective import Batch, Objective, Tried
from s4s.learn.seeded import generator
from s4s.learn.sketch import Point, differentiable, sketch
from s4s.learn.stream import Stream, Terms, advance, draw
from s4s.models.ddpmpp import UNetConfig
from s4s.models.edm import EDMNetwork
from s4s.solver import Denoise

PROCESS = s4s.EDM(0.01, 20.0)


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    return TwoPoints().denoise(x, sigma.reshape(-1, 1))


@pytest.fixture(scope="module")
def teacher() -> s4s.TeacherSet:
    strong = s4s.solver("dpmpp", s4s.grid("logsnr", PROCESS, 30), order=3)
    return s4s.teacher_set(strong, denoise, 128, (2,), 3, dtype=torch.float64)


@pytest.mark.parametrize("name", ["l1", "l2"])
@pytest.mark.parametrize("moments", [0.0, 3.0])
def test_many_random_projections_make_the_curvature(name: str, moments: float, teacher: s4s.TeacherSet) -> None:
    made, d = family(s4s.solver("ipndm", s4s.grid("edm", PROCESS, 4)), "lms"), distance(name)
    asked: Any = (made.arrays, made.theta, denoise, d, teacher.x_T[:64], teacher.y[:64])
    exact = gauss_newton(*asked, tolerance=None, moments=moments)
    points = [Point(made.arrays, made.theta, *asked[4:], range(64 * k, 64 * k + 64)) for k in range(8)]
    found = sketch(points, denoise, d, tolerance=None, moments=moments, projections=25)  # all of them in one batch
    unit = exact.curvature.diagonal().sqrt()
    error = (torch.stack([one.curvature for one in found]).mean(0) - exact.curvature) / torch.outer(unit, unit)
    assert error.abs().max() < (0.1 if not moments else 0.6)  # 32 projections of the moments' own
    assert (found[0].gradient - exact.gradient).abs().max() < 5e-3 * exact.gradient.abs().max()
    assert found[0].loss == pytest.approx(exact.loss) and torch.equal(found[0].distances, exact.distances)


def test_signs_of_a_sample_hang_on_its_seed_alone(teacher: s4s.TeacherSet) -> None:
    made, d = family(s4s.solver("ipndm", s4s.grid("edm", PROCESS, 4)), "lms"), distance("l2")

    def curvature(rows: slice) -> Tensor:
        point = Point(made.arrays, made.theta, teacher.x_T[rows], teacher.y[rows], range(*rows.indices(99)))
        return sketch([point], denoise, d)[0].curvature

    both = (curvature(slice(0, 3)) * 3 + curvature(slice(3, 8)) * 5) / 8
    torch.testing.assert_close(curvature(slice(0, 8)), both)


def test_reverse_mode_is_left_where_it_cannot_go(teacher: s4s.TeacherSet) -> None:
    start = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 4))
    table = torch.linspace(-7, 5, 4000, dtype=torch.float64)

    def embedded(x: Tensor, sigma: Tensor) -> Tensor:
        """Its level is looked up in a table, by a whole number."""
        return denoise(x, table[((sigma.log() + 7) / 12 * 3999).round().long()].exp().expand(len(x)))

    networks = {"reverse mode": denoise, "forward differences": lambda x, sigma: denoise(x.detach(), sigma.detach())}
    for expected, network in networks.items():
        found = s4s.fit([start], network, teacher, "s4s", rounds=2)
        assert found.solver.provenance["derivatives"] == expected
        assert found.val_loss < 0.9 * found.start_loss
    for method, expected in (("s4s", "reverse mode"), ("ld3", "forward differences")):  # S4S leaves the levels
        found = s4s.fit([start], embedded, teacher, method, rounds=2)
        assert found.solver.provenance["derivatives"] == expected and found.val_loss <= found.start_loss


def test_differences_are_announced_once(teacher: s4s.TeacherSet) -> None:
    start = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 4))
    with pytest.warns(
        Notice, match="derivatives are differences of network calls.*: the output of the network is cut"
    ) as said:
        s4s.fit([start], lambda x, sigma: denoise(x.detach(), sigma), teacher, "s4s", rounds=1)
    assert sum("derivatives" in str(one.message) for one in said) == 1

    def full(x: Tensor, sigma: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("full")

    assert (
        differentiable(full, teacher.x_T, torch.ones(len(teacher)))[0]
        == "the activations of the network do not fit into memory"
    )


def test_the_curvature_of_moments_is_right_in_the_mean(teacher: s4s.TeacherSet) -> None:
    """That of means and that of deviations have signs of their own."""
    made, d = family(s4s.solver("ipndm", s4s.grid("edm", PROCESS, 4)), "lms"), distance("l2")
    asked: Any = (made.arrays, made.theta, denoise, d, teacher.x_T[:32], teacher.y[:32])
    exact = gauss_newton(*asked, moments=1.0).curvature - gauss_newton(*asked).curvature
    points = [Point(made.arrays, made.theta, *asked[4:], range(999 * k, 999 * k + 32)) for k in range(150)]
    sketches = zip(sketch(points, denoise, d, moments=1.0), sketch(points, denoise, d), strict=True)
    found = torch.stack([with_moments.curvature - without.curvature for with_moments, without in sketches]).mean(0)
    assert (found - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_networks_of_half_precision_see_states_of_their_own(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    into, out = (torch.randn(2, 2, generator=draw).to(dtype) / 4 for _ in range(2))

    def network(x: Tensor, sigma: Tensor) -> Tensor:
        return (x @ into).tanh() @ out  # which refuses states of another dtype

    half = PROCESS.denoiser(network, prediction="eps")
    data = s4s.teacher_set(s4s.solver("ddim", s4s.grid("logsnr", PROCESS, 30)), half, 96, (2,), dtype=dtype)
    found = s4s.fit(s4s.solver("ipndm", s4s.grid("edm", PROCESS, 4)), half, data, "s4s", rounds=2)
    assert found.solver.provenance["derivatives"] == "reverse mode" and found.val_loss < 0.9 * found.start_loss


def test_a_distance_cut_from_the_graph_takes_differences(teacher: s4s.TeacherSet) -> None:
    @torch.no_grad()
    def decode(z: Tensor) -> Tensor:
        return torch.cat([z, z**3], 1)

    start, d = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 4)), s4s.decoded(s4s.distance("l2"), decode)
    with pytest.warns(Notice, match="differences of network calls.*: the output of the distance is cut from the graph"):
        found = s4s.fit(start, denoise, teacher, "s4s", distance=d, rounds=2)
    assert found.val_loss < 0.5 * found.start_loss


def test_moved_noises_need_a_gradient_by_the_states(teacher: s4s.TeacherSet) -> None:
    start = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 4))
    with (
        pytest.warns(Notice, match="cut from the graph"),
        pytest.raises(
            s4s.Error, match="radius > 0 needs gradients by the noises, and the output of the network is cut"
        ),
    ):
        s4s.fit(start, lambda x, sigma: denoise(x.detach(), sigma.detach()), teacher, "s4s", radius=0.01)
    with pytest.warns(Notice, match="by the level"):  # which noises do not need
        found = s4s.fit(start, lambda x, sigma: denoise(x, sigma.detach()), teacher, "ld3", radius=0.01, rounds=1)
    assert found.val_loss < found.start_loss


@pytest.mark.parametrize("moments", [0.0, 3.0])
def test_pieces_of_a_batch_make_the_model_of_the_whole(moments: float, teacher: s4s.TeacherSet) -> None:
    """Of its moments too, which are no mean of the pieces' own."""
    made = family(s4s.solver("ipndm", s4s.grid("edm", PROCESS, 4)), "lms")
    objective = Objective(Frozen(denoise, None, 1e-3), distance("l1"), teacher, 32, Tried(1.0, False))
    whole, pieces = [], []
    for rows, kept in ((96, whole), (20, pieces)):
        objective.gradient_rows = rows
        (model,) = objective.linearise([Batch(made.arrays, made.theta, objective.train, 7)], moments)
        kept += [model.gradient, model.curvature, torch.tensor(model.loss), model.distances]
    torch.testing.assert_close(pieces, whole)


def test_streams_that_share_calls_move_as_each_would_alone(teacher: s4s.TeacherSet) -> None:
    """Also where the network sees them apart, since they are too many for one call."""
    starts = [
        s4s.solver(name, s4s.grid(levels, PROCESS, 4)) for name, levels in (("ipndm", "edm"), ("dpmpp", "logsnr"))
    ]

    def moved(together: bool, rows: int = 256) -> tuple[list[Any], int]:
        objective = Objective(Frozen(denoise, None, 1e-3), distance("l2"), teacher, 32, Tried(1.0, True))
        objective.gradient_rows, first = rows, objective.evaluations
        families = [family(start, "lms") for start in starts]
        turns = [("weight",), ("grid", "shift")]
        streams = [Stream.of(made, made.turns(turns), seed) for seed, made in enumerate(families)]
        for _ in range(3):
            for several in [streams] if together else [[stream] for stream in streams]:
                advance(several, objective, 16, 0.5, Terms())
        found = [(stream.theta, stream.memory.A, stream.before, stream.damping, stream.last) for stream in streams]
        return found, objective.evaluations - first

    alone, cost = moved(False)
    for rows in (256, 20):
        together, spent = moved(True, rows)
        torch.testing.assert_close(together, alone)
        assert spent == cost
    assert all((stream[0] - family(start, "lms").theta).norm() > 0 for stream, start in zip(alone, starts, strict=True))


def test_starts_are_compared_in_the_precision_of_the_samples(teacher: s4s.TeacherSet) -> None:
    """A network in half precision takes nothing else."""

    def strict(x: Tensor, sigma: Tensor) -> Tensor:
        assert x.dtype == torch.float16
        return denoise(x.double(), sigma.double()).half()

    objective = Objective(Frozen(denoise, None, 1e-3), distance("l2"), teacher, 32, Tried(1.0, True))
    whole, objective.network = objective.held_out, Frozen(strict, None, 1e-3)
    few = replace(whole, x_T=whole.x_T.half(), y=whole.y.half(), first=None)
    starts = [s4s.solver("ipndm", s4s.grid(levels, PROCESS, 4)) for levels in ("edm", "logsnr")]
    found = objective.distances_of_each(starts, [few, few])
    torch.testing.assert_close(found, [objective.distances(start, few) for start in starts], rtol=0, atol=0)


def test_seeds_may_be_dates(teacher: s4s.TeacherSet) -> None:
    """A seed is multiplied up on its way to the signs of a sample; small ones draw what they always have."""
    start = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 4))
    found = s4s.fit([start], denoise, teacher, "s4s", rounds=1, seed=20_240_101)
    assert found.val_loss < found.start_loss
    assert generator(5 + 2**64).initial_seed() == generator(5).initial_seed() == 5
    drawn = torch.randperm(9, generator=torch.Generator().manual_seed(3 * 1_000_003))
    assert torch.equal(draw(3, 0, 9, 9), drawn) and len(draw(10**40, 0, 9, 9)) == 9


def test_a_fit_that_may_move_the_grid_races_textbook_starts(teacher: s4s.TeacherSet) -> None:
    start = s4s.solver("ddim", s4s.grid("quadratic", PROCESS, 4))
    alone, raced = (s4s.fit(s, denoise, teacher, "ld3", rounds=2) for s in ([start], start))
    assert {one["start"] for one in alone.raced} == {"ddim"}
    assert [one["start"] for one in raced.raced[:2]] == ["ddim", "ddim on even"]
    assert len({one["start"] for one in raced.raced}) == 4 and len(raced.raced) == 6
    assert raced.val_loss < alone.val_loss and raced.solver.provenance["start"] != "ddim"
    assert raced.solver.provenance["raced"] == raced.raced and raced.start_loss == alone.start_loss
    kept = s4s.fit(start, denoise, teacher, "s4s", rounds=2)
    assert {one["start"] for one in kept.raced} == {"ddim"} and torch.allclose(kept.solver.sigma, start.sigma)


def test_a_fit_says_what_would_have_helped(teacher: s4s.TeacherSet) -> None:
    start = s4s.solver("ddim", s4s.grid("quadratic", PROCESS, 4))
    with pytest.warns(Notice, match="the held-out loss still fell in round 2, the last; more rounds would help"):
        found = s4s.fit(start, denoise, teacher, "s4s", rounds=2)
    assert len(found.notes) == 1 and found.solver.provenance["notes"] == found.notes
    moved = replace(teacher, y=torch.cat([teacher.y[:64], teacher.y[64:] + 0.3]))
    with pytest.warns(
        Notice, match="times as far from the teacher as the 64 training samples; more of those would help"
    ):
        s4s.fit([start], denoise, moved, "joint", validation=64, rounds=2)


def test_memory_of_a_linearisation_is_flat_in_nfe() -> None:
    """With activations computed again, what is kept at a time does not grow with the number of evaluations."""
    config = UNetConfig(8, label_dim=0, model_channels=8, channel_mult=(1, 2), blocks=1, attention=(4,))
    net = EDMNetwork(config).eval().requires_grad_(False)
    x_T, y, peaks = 20 * torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), {}
    for nfe in (4, 8):
        made = family(s4s.solver("ipndm", s4s.grid("edm", PROCESS, nfe)), "lms")
        with SavedBytes() as saved:
            sketch([Point(made.arrays, made.theta, x_T, y)], recompute(net), distance("l2"))
        peaks[nfe] = saved.peak
    assert peaks[8] < 1.15 * peaks[4]


def half(x: Tensor, sigma: Tensor) -> Tensor:
    """The network in bfloat16: weights and activations are rounded to three digits."""
    x16, sigma16 = x.bfloat16(), sigma.bfloat16()
    return denoise(x16, sigma16).to(x)


def tensor_float(x: Tensor, sigma: Tensor) -> Tensor:
    """Rounded to ten bits on the way in and out, gradients as they are: what tf32 does to a convolution."""
    return _rounded(denoise(_rounded(x), sigma))


def _rounded(x: Tensor) -> Tensor:
    size = 2.0 ** (x.detach().abs().clamp(min=1e-30).log2().floor() - 10)
    return x + ((x / size).round() * size - x).detach()


def by_table(x: Tensor, sigma: Tensor) -> Tensor:
    table = torch.linspace(-7, 5, 4000, dtype=torch.float64)
    return denoise(x, table[((sigma.log() + 7) / 12 * 3999).round().long()].exp().expand(len(x)))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (denoise, True),
        (half, True),
        (tensor_float, True),
        (by_table, False),
        (lambda x, sigma: denoise(x, (sigma * 50).round() / 50), False),
        (lambda x, sigma: denoise(x.detach(), sigma), False),
        (lambda x, sigma: denoise(x, sigma.detach()), False),
        (lambda x, sigma: x.tanh(), True),
        (lambda x, sigma: 0 * x + 0.5, True),
    ],
    ids=["plain", "bfloat16", "tf32", "table", "rounded time", "input cut", "level cut", "blind to level", "constant"],
)
@pytest.mark.parametrize("level", [0.1, 1.0, 10.0])
def test_reverse_mode_is_believed_where_it_is_right(network: Denoise, expected: bool, level: float) -> None:
    x = level * torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    reason, taken = differentiable(network, x, torch.full((4,), level).double())
    assert (not reason) == expected and taken % 3 == 0
