"""``s4s.learn``: from a denoiser to learned solvers in one call; killed anywhere, it ends at the same numbers."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import TwoPoints
from torch import Tensor

import s4s
from s4s.learn import effort as sizes
from s4s.learn.effort import LADDER, Cost, Pace
from s4s.learn.meter import Meter
from s4s.learn.work import Work

PROCESS = s4s.EDM(0.01, 20.0)
SMALL: dict[str, Any] = {"nfe": [4, 3], "samples": 24, "seed": 2, "batch": 24, "dtype": torch.float64}


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    return TwoPoints().denoise(x, sigma.reshape(-1, 1))


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rounds, a plan whose timing costs nothing, and no notices of few samples."""
    monkeypatch.setattr(sizes, "DEFAULT", LADDER[0])
    monkeypatch.setattr(sizes, "LEAST", 0.0)
    monkeypatch.setattr(sizes, "fit_cost", lambda nfe, *sizes: Cost(2400 * nfe, 1440 * nfe))
    warnings.simplefilter("ignore")


def test_the_function_hides_no_module_of_its_package() -> None:
    import s4s.learn.effort as module  # binds by way of the attribute `learn` of `s4s`, which is the function

    assert module is sizes and inspect.isfunction(s4s.learn) and "nfe" in inspect.signature(s4s.learn).parameters


def test_learned_solvers_are_nearer_than_textbook_ones_on_samples_of_their_own() -> None:
    said: list[str] = []
    found = s4s.learn(denoise, PROCESS, (2,), say=said.append, **SMALL)
    assert isinstance(found, s4s.Learned) and list(found.bundle) == list(found.textbook) == [3, 4]
    x_T = found.teacher.x_T
    for nfe, solver in found.bundle.items():
        distance = found.record["held_out"][str(nfe)]
        assert distance["learned"] < 0.7 * distance["textbook"]
        y, x = found.teacher.y, s4s.sample(solver, denoise, x_T)
        assert ((x - y).square().mean().sqrt() / y.std()).item() == pytest.approx(distance["learned"])
        assert torch.equal(found.outputs["learned"][nfe], x)
    train = s4s.noise(2, range(24), (2,)) * 20
    assert not torch.isclose(x_T[:, None], train).all(2).any(), "held-out noises are none of those learned from"
    assert "24 samples to learn from and 8 held out" in said[0] and said[-1].startswith("about ")


class Killed(Exception):
    pass


def killing(after: int) -> Any:
    calls = [0]

    def dying(x: Tensor, sigma: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] > after:
            raise Killed
        return denoise(x, sigma)

    return dying


def test_killed_anywhere_it_ends_at_the_same_bytes(tmp_path: Path) -> None:
    s4s.learn(denoise, PROCESS, (2,), **SMALL).bundle.save(tmp_path / "unbroken.json")
    kills = 0
    for after in (20, 60, 400, 700, 1100, 1600, 10**9):  # teacher, textbook, race and rounds of both fits
        try:
            s4s.learn(killing(after), PROCESS, (2,), resume=tmp_path / "work", **SMALL).bundle.save(tmp_path / "b.json")
        except Killed:
            kills += 1
    assert kills >= 3
    assert (tmp_path / "b.json").read_bytes() == (tmp_path / "unbroken.json").read_bytes()


def test_work_goes_on_with_fewer_rows_a_call(tmp_path: Path) -> None:
    """The first remedy where memory is short, whatever part was at work: no call has more rows from then on."""
    whole = s4s.learn(denoise, PROCESS, (2,), **SMALL)
    for after in (30, 700):  # teacher, a fit
        with pytest.raises(Killed):
            s4s.learn(killing(after), PROCESS, (2,), resume=tmp_path / "work", **SMALL)
    rows: set[int] = set()

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        rows.add(len(x))
        return denoise(x, sigma)

    found = s4s.learn(counted, PROCESS, (2,), resume=tmp_path / "work", **SMALL | {"batch": 5})
    assert max(rows) == sizes.ROWS, "of the calls that are timed; all others have 5"
    assert found.record["effort"]["batch"] == 5 and found.teacher.y.shape == whole.teacher.y.shape
    for nfe, distance in whole.record["held_out"].items():
        assert found.record["held_out"][nfe]["learned"] == pytest.approx(distance["learned"], rel=0.05)


def test_where_memory_was_short_fewer_outputs_stand_for_the_network(tmp_path: Path) -> None:
    work = Work(tmp_path / "work")
    work.plan({"seed": 0}, (1.0, 2.0, 3.0), lambda: 7)
    assert work.plan({"seed": 0}, (1.0, 2.0), lambda: 8) == 7
    with pytest.raises(s4s.Error, match="unfinished work with another network"):
        work.plan({"seed": 0}, (1.0, 2.1), lambda: 8)


def test_work_of_another_kind_is_not_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        s4s.learn(killing(30), PROCESS, (2,), resume=tmp_path / "work", **SMALL)
    with pytest.raises(s4s.Error, match="unfinished work with another seed; call it as before to go on"):
        s4s.learn(denoise, PROCESS, (2,), resume=tmp_path / "work", **SMALL | {"seed": 3})
    with pytest.raises(s4s.Error, match="unfinished work with another network"):
        s4s.learn(lambda x, sigma: 2 * denoise(x, sigma), PROCESS, (2,), resume=tmp_path / "work", **SMALL)
    for other in ("{", '{"mine": 1}'):
        (tmp_path / "work" / "plan.json").write_text(other)
        with pytest.raises(s4s.Error, match=r"plan\.json: damaged, or not of s4s\.learn; name another folder, or"):
            s4s.learn(denoise, PROCESS, (2,), resume=tmp_path / "work", **SMALL)


def test_conditions_and_levels_of_the_sampler_at_hand() -> None:
    """Rows of their own for held-out samples; the levels are a grid among the others, where they are as many."""
    seen: set[float] = set()

    def under(rows: Tensor) -> Any:
        def shifted(x: Tensor, sigma: Tensor) -> Tensor:
            seen.update(rows.tolist())
            return denoise(x - rows[:, None], sigma) + rows[:, None]

        return shifted

    own = {3: [18.0, 2.0, 0.2], 4: None}
    found = s4s.learn(
        under, PROCESS, (2,), condition=lambda at: torch.tensor([i % 2 for i in at]).double(),
        held_out=lambda at: torch.full((len(at),), 5.0).double(), levels=own.get, **SMALL,
    )  # fmt: skip
    assert seen == {0.0, 1.0, 5.0} and found.teacher.y.mean() > 3
    assert all(
        each.provenance["grid"] in ("logsnr", "edm", "uniform", "even", "own") for each in found.textbook.values()
    )


@pytest.mark.parametrize(("time", "level"), [(60.0, 0), (1e4, 4), (1e9, len(LADDER) - 1), (None, 0)])
def test_the_most_work_that_fits_a_time(time: float | None, level: int) -> None:
    pace = Pace(8, 1e-3, ())
    found = sizes.suited(pace, [4], {4: 28}, time, None)
    most = [k for k, each in enumerate(LADDER) if each.samples <= found.samples]
    if time is not None:
        takes = sum(sizes.seconds(sizes.costs(found, [4], {4: 28}, True), pace).values())
        assert takes <= time
        if found.samples < LADDER[-1].samples:
            above = LADDER[most[-1] + 1]
            assert sum(sizes.seconds(sizes.costs(above, [4], {4: 28}, True), pace).values()) > sizes.SPARE * time
    else:
        assert found.samples == LADDER[level].samples
    assert sizes.suited(pace, [4, 30], {4: 28, 30: 28}, None, 12).to_dict() | {"rounds": 0} == {
        "samples": 12, "held_out": 8, "teacher": 60, "rounds": 0, "tried": 4, "batch": 8}  # fmt: skip


def test_a_network_is_timed_and_tried() -> None:
    """Eight rows a call at least, since they were tried, unless another number is asked for."""
    found = sizes.pace(lambda rows: denoise, PROCESS, (2,), torch.float64, "cpu")
    assert sizes.ROWS <= found.batch <= sizes.MOST_ROWS and found.seconds > 0 and found.reverse
    cut = sizes.pace(lambda rows: lambda x, sigma: denoise(x.detach(), sigma), PROCESS, (2,), torch.float64, "cpu", 3)
    assert cut.batch == 3 and not cut.reverse and cut.means == found.means


def test_a_bar_ends_full_however_many_calls_a_part_took(capsys: pytest.CaptureFixture[str]) -> None:
    meter = Meter({"a": (1.0, 10), "b": (3.0, 10), "c": (1.0, 0)}, show=True)
    counted = meter.counted(denoise, conditional=False)
    meter.enter("a")
    counted(torch.zeros(5, 2), torch.tensor(1.0))
    assert meter.bar.n == pytest.approx(0.5)
    meter.enter("b")
    counted(torch.zeros(50, 2), torch.tensor(1.0))
    assert meter.bar.n == pytest.approx(1 + 3 * (1 - 0.16 / 5))
    meter.enter("c", done=True)
    assert meter.bar.n == 5 and meter.bar.initial == 1
    meter.close()
    assert "100%" in capsys.readouterr().err


@pytest.mark.parametrize(("change", "message"), [
    ({"nfe": []}, "nfe holds no number"),
    ({"nfe": [4, 0]}, "nfe = 0 must be a whole number of at least 1"),
    ({"nfe": 2.5}, "nfe = 2.5 must be a whole number"),
    ({"samples": 3}, "samples = 3 must be a whole number of at least 8"),
    ({"time": 0}, "time = 0 must be a number of seconds above 0"),
    ({"time": "10m"}, "time = '10m' must be a finite number"),
    ({"device": "nope"}, "device 'nope' is not here: "),
    ({"levels": [20.0, 5.0, 1.0]}, "levels must be a function: number of evaluations -> noise levels, or None; got"),
    ({"time": 1e-3}, "the least that can be learned here takes about .*, more than the 1 s given"),
    ({"batch": 0}, "batch = 0 must be"),
    ({"seed": -1}, "seed = -1 must be"),
    ({"distance": "l3"}, "unknown distance 'l3'"),
    ({"dtype": "float32"}, "dtype = 'float32' must be one of torch's"),
    ({"condition": torch.zeros(8)}, "condition must be a function, such as model.condition, got a Tensor"),
    ({"condition": torch.zeros}, r"with condition=, denoise must take its rows and give the network"),
    ({"say": True}, "say must be a function, such as print, got a bool"),
    ({"levels": lambda nfe: "even"}, r"levels\(\d\) is not a rectangular array of numbers"),
])  # fmt: skip
def test_bad_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(s4s.Error, match=message):
        s4s.learn(denoise, PROCESS, (2,), **SMALL | change)


def test_a_seed_without_noises_is_refused_before_the_network_is_asked() -> None:
    with pytest.raises(
        s4s.Error, match="seed = 18446744073709551616 must be a whole number from 0 to 18446744073709551615"
    ):
        s4s.learn(lambda x, sigma: pytest.fail("asked"), PROCESS, (2,), **SMALL | {"seed": 2**64})


def test_arguments_in_another_order() -> None:
    with pytest.raises(s4s.Error, match="learn takes a denoiser, its process and the shape of a sample"):
        s4s.learn(PROCESS, denoise, (2,))  # type: ignore[arg-type]


@pytest.mark.parametrize(("net", "message"), [
    (lambda x, sigma: x * torch.nan, "the network gives NaN or infinity at noise level 20"),
    (lambda x, sigma: None, "what the network gives must be a tensor of floating point numbers, got NoneType"),
    (lambda x, sigma: x[:, :1], r"the network gives shape \[1, 1\] for states of shape \[1, 2\]"),
])  # fmt: skip
def test_bad_networks(net: Any, message: str) -> None:
    with pytest.raises(s4s.Error, match=message):
        s4s.learn(net, PROCESS, (2,), **SMALL)
