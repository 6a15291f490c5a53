"""The benchmarks' own arithmetic: what they count, and that both fits they compare lower the loss."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import s4s
from s4s.learn.memory import recompute
from s4s.models.ddpmpp import UNetConfig

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import digits
import guidance
import measure
import pipeline
import variants

TINY = UNetConfig(8, model_channels=16, channel_mult=(1,), blocks=1, attention=())


def test_where_the_seconds_went(tmp_path: Path) -> None:
    for name, rows in {
        "train/denoiser.tsv": ["100.0"],
        "fit/a.tsv": ["30.0"],
        "fit/b.tsv": ["20.0", "10.0"],
        "figure.tsv": ["NA"],
        "evaluate/x.tsv": ["20.0"],
        "snakemake.tsv": ["15.0", "5.0"],
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("\n".join(["s\tcpu_time", *(f"1.0\t{row}" for row in rows)]) + "\n")
    found = pipeline.stages(tmp_path)
    assert found["fit"] == (3, 60.0) and found["figure"] == (1, 0.0) and found["snakemake"] == (2, 20.0)
    assert pipeline.share(found, start=2.0) == pytest.approx((98 + 54) / 200)
    assert "| fit | 3 | 60 | 30.0% | 6 |" in pipeline.table(found, 2.0)
    assert "left out" not in pipeline.table(found, 2.0)


def test_a_task_does_what_its_floors_do() -> None:
    task = measure.Task(TINY, 2, 4)
    calls: list[bool] = []
    task.net.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    for run, expected in (
        (task.forwards, [False] * 4),
        (task.sample, [False] * 4),
        (task.floor, [True] * 4),
        (lambda: task.step(task.net), [True] * 4),
        (lambda: task.step(recompute(task.net)), [False] * 4 + [True] * 4),
    ):
        calls.clear()
        run()
        assert calls == expected
    assert task.kept(recompute(task.net)) < task.kept(task.net) / 3
    assert measure.Task(TINY, 2, 4, "meta").kept(lambda x, sigma: x * 2) > 0


def test_rounds_are_paired() -> None:
    order: list[str] = []
    taken = measure.interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert "".join(order) == "baabba" and [len(spent) for spent in taken.values()] == [2, 2]
    assert measure.ratio([1.0, 4.0, 9.0], [1.0, 2.0, 3.0]) == 2.0


def test_both_fits_lower_the_loss_and_count_what_they_spend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "TRAIN", 48)
    monkeypatch.setattr(digits, "HELD_OUT", 16)
    monkeypatch.setattr(digits, "SHAPE", (4,))

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(len(x))
        return torch.tanh(x / (1 + (sigma.reshape(-1, *[1] * (x.ndim - 1)) if sigma.ndim else sigma) ** 2)).to(x)

    calls: list[int] = []
    samples = digits.teacher(denoise)
    for method in ("joint", "s4s-alt"):
        calls.clear()
        ours, solver = digits.ours(denoise, samples, method, digits.start(4), 0, 3)
        assert solver.nfe == 4
        assert sum(calls) / 2 < ours[-1].evaluations < 3 * sum(calls), (
            "passes back count, the notes' last look does not"
        )
        calls.clear()
        theirs = digits.adam(denoise, samples, method, 4, 0, 20, batch=8)
        assert 2 * (sum(calls) - 4 * 16 * len(theirs)) == theirs[-1].evaluations == 20 * 8 * 4 * 2
        for points in (ours, theirs):
            assert points[-1].loss < points[0].loss and points[-1].seconds > 0
            assert all(a.loss >= b.loss and a.evaluations < b.evaluations for a, b in pairwise(points))
        assert digits.reach(ours, ours[-1].loss) in ours and digits.reach(ours, 0.0) is None


def test_variants_differ_in_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "TRAIN", 80)
    monkeypatch.setattr(digits, "HELD_OUT", 16)
    monkeypatch.setattr(digits, "SHAPE", (4,))

    def denoiser(c: float) -> Any:
        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return torch.tanh(c * x / (1 + (sigma.reshape(-1, 1) if sigma.ndim else sigma) ** 2)).to(x)

        return denoise

    monkeypatch.setattr(variants, "ROUNDS", 3)
    one, other = denoiser(1.0), denoiser(1.2)
    made = variants.Bench(one, digits.teacher(one), digits.teacher(one, 8), (other, digits.teacher(other)))
    curves = {name: made.run(name, "joint", 4, 0) for name in variants.NAMES}
    assert all(points[-1].loss <= points[0].loss for points in curves.values())
    first = curves["default"][0].loss
    for name in ("other-grid", "other-solver", "fewer-nfe", "other-network", "curriculum"):
        assert curves[name][0].loss != first, name
    sizes = {name: curves[name][1].evaluations for name in ("batch-32", "batch-256", "batch-all")}
    assert sizes["batch-32"] < sizes["batch-all"] == sizes["batch-256"]  # there are 80
    assert curves["curriculum"][0].evaluations > 0 == curves["other-network"][0].evaluations


def test_variants_are_compared_within_a_cell() -> None:
    def curve(*points: tuple[float, float]) -> list[digits.Point]:
        return [digits.Point(evaluations, 0.0, loss) for evaluations, loss in points]

    cells = {
        ("default", "joint", "5", "0"): curve((0, 8.0), (100, 4.0), (200, 2.0)),
        ("batch-32", "joint", "5", "0"): curve((0, 8.0), (50, 2.05), (100, 1.0)),
        ("curriculum", "joint", "5", "0"): curve((40, 4.0), (300, 3.0)),
    }
    table = variants.table(cells)
    assert "| 32 samples | 1 | 1.00 | 0.50 | 0.25 (1 of 1 get there) |" in table
    assert "| 1 | 0.50 | 1.50 | never (0 of 1 get there) |" in table


def test_the_scale_of_one_evaluation_is_moved_alone() -> None:
    plain = s4s.solver("ddim", s4s.grid("edm", s4s.EDM(), nfe=3))
    moved, scales = s4s.merge_guidance(guidance.at_scale(s4s.split_guidance(plain, 4.0), 1, 2.5))
    assert scales == pytest.approx([4.0, 2.5, 4.0])
    assert torch.allclose(moved.weight, plain.weight)
