"""A killed fit goes on to the very result of an unbroken one; a file of another fit is left aside."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import TwoPoints
from safetensors import safe_open
from torch import Tensor

import s4s
from s4s.errors import Notice
from s4s.learn import run, starts, stream

PROCESS = s4s.EDM(0.01, 20.0)
DENOISE = TwoPoints().denoise
START = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 4), order=3)
STRONG = s4s.solver("dpmpp", s4s.grid("logsnr", PROCESS, 30), order=3)


class Killed(BaseException):
    """What a job does not survive."""


def teacher(seed: int = 3, n: int = 96) -> s4s.TeacherSet:
    return s4s.teacher_set(STRONG, DENOISE, n, (2,), seed, dtype=torch.float64)


def killing(after: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The network, which kills the fit at one of its calls."""
    calls = iter(range(after))

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        if next(calls, None) is None:
            raise Killed
        return DENOISE(x, sigma.reshape(-1, 1))

    return denoise


def fit(denoise: Any = None, **changes: Any) -> s4s.FitResult:
    settings = {"teacher": teacher(), "method": "s4s-alt", "rounds": 6, "seed": 5} | changes
    return s4s.fit(START, killing(10**9) if denoise is None else denoise, **settings)


@pytest.mark.parametrize("options", [{}, {"radius": 0.05}, {"method": "joint", "patience": 1, "rounds": 40}])
def test_killed_at_random_it_ends_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    path, draw = tmp_path / "fits" / "a.safetensors", random.Random(0)
    whole, killed = fit(**options), 0
    while True:
        try:
            again = fit(killing(draw.randrange(50, 130)), resume=path, **options)
            break
        except Killed:
            killed += 1
            assert [file for file in path.parent.glob("*") if file != path] == [], "nothing half-written"
    again.solver.save(tmp_path / "again")
    whole.solver.save(tmp_path / "whole")
    assert killed >= 2
    assert (tmp_path / "again").read_bytes() == (tmp_path / "whole").read_bytes()
    assert again.history == whole.history and again.evaluations == whole.evaluations
    assert again.val_loss == whole.val_loss and again.start_loss == whole.start_loss
    assert not path.exists(), "a fit that is done leaves nothing"


def test_a_stream_that_begins_again_at_the_first_start_is_recorded_and_goes_on_there(tmp_path: Path) -> None:
    """With moments, which the race does not see, its winner may be worse than that start."""
    levels, path = s4s.grid("uniform", PROCESS, 2), tmp_path / "a.safetensors"
    begin = [s4s.solver("ipndm", levels, order=2), s4s.solver("ddim", levels)]
    calls = 0

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return DENOISE(x, sigma.reshape(-1, 1))

    def fitted(denoise: Any, resume: Path | None = None) -> s4s.FitResult:
        steep = s4s.Distance("steep", lambda x: (6 * x).exp())
        return s4s.fit(begin, denoise, teacher(n=40), "ld3", distance=steep, moments=100.0, seed=5, rounds=2,
                       resume=resume)  # fmt: skip

    whole = fitted(counted)
    assert whole.raced[-1]["start"] == "ddim" and whole.solver.name == "ld3(ipndm2)"
    with pytest.raises(Killed):
        fitted(killing(calls - 10), path)
    again = fitted(killing(10**9), path)
    assert again.solver.to_dict() == whole.solver.to_dict() and again.history == whole.history


def left(path: Path, **options: Any) -> Path:
    """What a fit leaves that is killed after some rounds."""
    with pytest.raises(Killed):
        fit(killing(150), resume=path, **options)
    return path


def test_streams_of_a_file_that_are_not_side_by_side_end_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As older versions left them, which ran one stream of a race after another."""
    path, whole, together = tmp_path / "a", fit(rounds=1), stream.advance

    def only_the_first(streams: Sequence[stream.Stream], *args: Any) -> None:
        if streams[0].steps == 3:
            raise Killed
        together(streams[:1], *args)

    monkeypatch.setattr(run, "advance", only_the_first)
    with pytest.raises(Killed):
        fit(rounds=1, resume=path)
    monkeypatch.setattr(run, "advance", together)
    again = fit(rounds=1, resume=path)
    assert again.history == whole.history and again.raced == whole.raced


def test_seconds_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock stands still in the second run."""
    path = left(tmp_path / "a")
    with safe_open(path, framework="pt") as file:
        before = json.loads(file.metadata()["record"])["numbers"]["seconds"]
    monkeypatch.setattr("time.perf_counter", lambda: 0.0)
    assert fit(resume=path).seconds == before > 0


@pytest.mark.parametrize(("change", "reason"), [
    ({"radius": 0.1}, "radius"),
    ({"seed": 6}, "seed"),
    ({"method": "s4s"}, "method, source, starts"),
    ({"rounds": 7, "patience": 6}, "patience, rounds"),
    ({"distance": "l1"}, "distance"),
    ({"teacher": teacher(seed=4)}, "teacher set"),
    ({"validation": 20}, "teacher samples"),
    ({"order": 4}, "order"),
    ({"denoise": lambda x, sigma: 0.99 * DENOISE(x, sigma.reshape(-1, 1))}, "network or distance"),
])  # fmt: skip
def test_another_fit_starts_anew(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = left(tmp_path / "a")
    with pytest.warns(Notice, match=rf"a: of a fit with another {reason}; this fit starts anew$"):
        found = fit(resume=path, **change)
    assert found.history == fit(**change).history and not path.exists()


def test_another_start_starts_anew(tmp_path: Path) -> None:
    path = left(tmp_path / "a")
    other = s4s.solver("ipndm", s4s.grid("logsnr", PROCESS, 4), order=3)
    with pytest.warns(Notice, match="start numbers, starts; this fit starts anew"):
        s4s.fit(other, killing(10**9), teacher(), "s4s-alt", rounds=6, seed=5, resume=path)


def test_a_build_that_races_other_starts_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams are kept by their start's place among all: in another list they would be another start's."""
    path = left(tmp_path / "a")
    monkeypatch.setattr(starts, "GRIDS", ("logsnr", "edm"))
    with pytest.warns(Notice, match="another starts; this fit starts anew"):
        assert fit(resume=path).history == fit().history


def test_the_microbatch_may_change(tmp_path: Path) -> None:
    path = left(tmp_path / "a")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*starts anew")
        found = fit(resume=path, microbatch=30)
    assert found.val_loss == pytest.approx(fit().val_loss, rel=0.05)


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-9], lambda b: b[:50] + b"nonsense" * 9])
def test_a_damaged_file_starts_anew(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = left(tmp_path / "a")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(Notice, match="a: damaged or truncated; this fit starts anew"):
        assert fit(resume=path).history == fit().history


def test_a_file_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    """Such as a solver's: the state of the fit would take its place, and be removed at the end."""
    path = tmp_path / "solver.json"
    START.save(path)
    before = path.read_bytes()
    with pytest.raises(s4s.Error, match=r"solver\.json: no file of an unfinished fit; name another for resume="):
        fit(resume=path)
    assert path.read_bytes() == before
    with pytest.raises(s4s.Error, match="a folder; name a file in it for resume="):
        fit(resume=tmp_path)


def test_a_file_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Killed):
        fit(killing(150), resume="~/a")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
