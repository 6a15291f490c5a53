"""Arrays and whole numbers of numpy and torch are ordinary input; text and fractions are refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import s4s

LEVELS = np.geomspace(0.002, 80.0, 5)
ACP = np.linspace(0.01, 0.999, 100)
FALLING = LEVELS[::-1].copy()
ARRAYS: dict[str, Any] = {
    "strides below 0": LEVELS[::-1],
    "every other": np.repeat(FALLING, 2)[::2],
    "a column": np.stack([FALLING, FALLING], 1)[:, 0],
    "big-endian": FALLING.astype(">f8"),
    "long doubles": FALLING.astype(np.longdouble),
    "read-only": np.frombuffer(FALLING.tobytes()),
    "a list": FALLING.tolist(),
    "numpy's numbers in a list": list(FALLING),
    "a tensor's view": torch.tensor(LEVELS).flip(0),
}


@pytest.mark.parametrize("levels", ARRAYS.values(), ids=ARRAYS)
def test_levels_may_be_any_array(levels: Any) -> None:
    expected = torch.tensor(FALLING)
    assert torch.equal(s4s.grid(levels, s4s.EDM(), 4), expected)
    made = s4s.solver("ddim", levels)
    assert torch.equal(made.sigma, expected)
    again = s4s.Solver(levels, levels[:-1], made.start.numpy()[::-1][::-1], made.weight.numpy().T.copy().T)
    assert torch.equal(again.sigma_eval, expected[:-1]) and torch.equal(again.weight, made.weight)
    assert torch.equal(s4s.solver("ddim", levels, sigma_eval=levels[:-1]).sigma_eval, expected[:-1])


def test_tables_and_times_may_be_any_array() -> None:
    process, plain = s4s.VPDiscrete(ACP[::-1]), s4s.VPDiscrete(ACP[::-1].tolist())
    assert torch.equal(process.alpha(torch.tensor(0.3)), plain.alpha(torch.tensor(0.3)))
    times = np.linspace(0.1, 0.9, 4)
    assert torch.equal(process.level(times[::-1]), process.level(torch.tensor(times)).flip(0))
    assert process.level(np.float32(0.5)).dtype == process.time(np.float64(1.0)).dtype == torch.float64


@pytest.mark.parametrize("four", [np.int64(4), np.uint8(4), torch.tensor(4), np.array(4)])
def test_whole_numbers_may_be_numpys_or_torchs(four: Any) -> None:
    plain = s4s.grid("edm", s4s.EDM(), 4)
    assert torch.equal(s4s.grid("edm", s4s.EDM(), four), plain)
    assert torch.equal(s4s.grid("edm", s4s.EDM(), 4, rho=np.float32(7)), plain)
    noises = s4s.noise(np.int64(3), np.arange(2), (np.int64(1), 2))
    assert torch.equal(noises, s4s.noise(3, range(2), (1, 2)))


def test_what_is_made_of_numpys_numbers_can_be_saved(tmp_path: Path) -> None:
    made = s4s.solver("dpmpp", s4s.grid("edm", s4s.EDM(), 4), order=np.int64(2))
    made = made.replace(provenance={**made.provenance, "seed": np.int64(3), "rho": np.float32(7), "at": np.arange(2)})
    made.save(tmp_path / "s.json")
    record = json.loads((tmp_path / "s.json").read_text())["provenance"]
    assert (record["options"], record["seed"], record["rho"], record["at"]) == ({"order": 2}, 3, 7.0, [0, 1])


@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16"])
def test_solver_files_may_have_a_byte_order_mark(tmp_path: Path, mark: str) -> None:
    made = s4s.solver("ddim", FALLING)
    made.save(tmp_path / "s.json")
    text = (tmp_path / "s.json").read_text().replace("\n", "\r\n")
    (tmp_path / "s.json").write_bytes(text.encode(mark))
    assert torch.equal(s4s.load_solver(tmp_path / "s.json").weight, made.weight)


START = s4s.solver("ddim", FALLING)


def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return x / (1 + sigma**2)


def drawn(x_T: Any) -> torch.Tensor:
    return s4s.sample(START, denoise, x_T)


def teacher(**options: Any) -> s4s.TeacherSet:
    return s4s.teacher_set(START, denoise, 8, (2,), **options)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "text": (lambda: s4s.VPDiscrete(["0.9", "0.1"]), "alphas_cumprod is not a rectangular array of numbers"),
    "an array of text": (lambda: s4s.VPDiscrete(np.array(["0.9", "0.1"])), "alphas_cumprod is not a rect"),
    "complex": (lambda: s4s.grid(FALLING.astype(complex), s4s.EDM(), 4), "a grid of your own is not a rect"),
    "objects": (lambda: s4s.solver("ddim", np.array([3, None])), "a grid of noise levels is not a rect"),
    "ragged": (lambda: s4s.solver("ddim", [[3.0], [2.0, 1.0]]), "a grid of noise levels is not a rect"),
    "times of text": (lambda: s4s.solver("ddim", [3.0, 1.0], sigma_eval="a"), "sigma_eval is not a rect"),
    "rising": (lambda: s4s.VPDiscrete(ACP), "must be a falling sequence"),
    "true": (lambda: s4s.grid("edm", s4s.EDM(), True), "nfe = True must be a whole number of at least 1"),
    "a fraction": (lambda: s4s.grid("edm", s4s.EDM(), 4.0), "nfe = 4.0 must be a whole number"),
    "numpy's fraction": (lambda: s4s.grid("edm", s4s.EDM(), np.float64(4)), "must be a whole number"),
    "zero": (lambda: s4s.grid("edm", s4s.EDM(), np.int64(0)), "must be a whole number of at least 1"),
    "an order with a fraction": (lambda: s4s.solver("dpmpp", FALLING, order=2.0), "unknown order of solver"),
    "states of whole numbers": (lambda: drawn(torch.ones(1, 2, dtype=torch.int64)), "x_T must be a tensor of floating"),
    "states of numpy": (lambda: drawn(np.ones((1, 2))), "x_T must be a tensor of floating point numbers, got ndarray"),
    "a count of noises": (lambda: s4s.noise(0, 2, (2,)), "must be whole numbers in a row"),
    "a number for a shape": (lambda: s4s.noise(0, range(2), 2), "must be whole numbers in a row"),
    "a seed too large": (lambda: s4s.noise(2**64, [0], (2,)), "seed = 18446744073709551616 must be a whole"),
    "a seed with a fraction": (lambda: s4s.noise(1.5, [0], (2,)), "seed = 1.5 must be a whole number from 0 to 18"),
    "a seed of text": (lambda: s4s.noise("a", [0], (2,)), "seed = 'a' must be a whole number from 0"),
    "a negative index": (lambda: s4s.noise(0, [-1], (2,)), "index = -1 must be a whole number from 0"),
    "a shape with a fraction": (lambda: s4s.noise(0, [0], (2.5,)), "shape = 2.5 must be a whole number of at least 1"),
    "a shape of nothing": (lambda: s4s.noise(0, [0], (0,)), "shape = 0 must be a whole number of at least 1"),
    "no batch": (lambda: teacher(batch=0), "batch = 0 must be a whole number of at least 1"),
    "a fraction of a round": (lambda: s4s.fit(START, denoise, teacher(), rounds=1.5), "rounds = 1.5 must be a whole"),
    "several": (lambda: s4s.grid("edm", s4s.EDM(), torch.tensor([4, 5])), "must be a whole number"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_other_things_are_refused_in_one_line(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(s4s.Error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
