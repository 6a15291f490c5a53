"""The Solver value and ``sample``: symmetry, gradients, files, errors; the starting noise."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import TwoPoints
from torch import Tensor

import s4s
from s4s.solver import ARRAYS, solver_from_dict

GRID = [4.0, 2.5, 1.4, 0.9, 0.5]
SOLVER = s4s.solver("unipc", GRID)
X_T = torch.tensor([[3.0, -2.0], [0.5, 6.0]], dtype=torch.float64)


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    return TwoPoints().denoise(x, sigma)


@st.composite
def explicit_solvers(draw: st.DrawFn) -> s4s.Solver:
    """Any table of up to 5 evaluations: no solver in particular."""
    nfe = draw(st.integers(1, 5))
    numbers = st.floats(-3, 3, allow_subnormal=False)
    steps = draw(st.lists(st.floats(0, 2), min_size=nfe, max_size=nfe))
    weight = torch.tensor(draw(st.lists(st.lists(numbers, min_size=nfe, max_size=nfe), min_size=nfe, max_size=nfe)))
    start = torch.tensor([1.0, *draw(st.lists(numbers, min_size=nfe, max_size=nfe))], dtype=torch.float64)
    sigma = 5 * torch.exp(-torch.tensor([0.0, *steps], dtype=torch.float64).cumsum(0))
    weight = torch.cat([torch.zeros(1, nfe), weight]).double().tril(-1)
    return s4s.Solver(sigma, 0.9 * sigma[:-1], start, weight)


@settings(max_examples=25, deadline=None)
@given(solver=explicit_solvers())
def test_json_is_exact(solver: s4s.Solver) -> None:
    again = solver_from_dict(json.loads(json.dumps(solver.to_dict())))
    assert all(torch.equal(getattr(solver, key), getattr(again, key)) for key in ARRAYS)


@settings(max_examples=25, deadline=None)
@given(solver=explicit_solvers(), k=st.floats(0.1, 10))
def test_scale(solver: s4s.Solver, k: float) -> None:
    """The rule is linear in x and D together, whatever the numbers."""
    scaled = s4s.sample(solver, lambda x, sigma: k * denoise(x / k, sigma), k * X_T)
    torch.testing.assert_close(scaled, k * s4s.sample(solver, denoise, X_T), rtol=1e-9, atol=1e-9)


def test_rule_written_out() -> None:
    x, D = [X_T], []
    for n in range(4):
        D.append(denoise(x[n], SOLVER.sigma_eval[n]))
        x.append(SOLVER.start[n + 1] * X_T + sum(SOLVER.weight[n + 1, j] * D[j] for j in range(n + 1)))
    seen: list[tuple[int, Tensor, Tensor]] = []
    result = s4s.sample(SOLVER, denoise, X_T, callback=lambda *call: seen.append(call))
    torch.testing.assert_close(result, x[-1])
    assert [n for n, _, _ in seen] == [0, 1, 2, 3]
    for n, state, output in seen:
        torch.testing.assert_close(state, x[n])
        torch.testing.assert_close(output, D[n])


def test_shift_and_batch_order() -> None:
    x = s4s.sample(SOLVER, denoise, X_T)
    shifted = s4s.sample(SOLVER, lambda x, sigma: denoise(x - 3, sigma) + 3, X_T + 3)
    torch.testing.assert_close(shifted, x + 3)
    assert torch.equal(s4s.sample(SOLVER, denoise, X_T.flip(0)), x.flip(0))


def test_dtype_and_shape_follow_x_T() -> None:
    x_T = torch.zeros(2, 3, 4, 4)
    result = s4s.sample(SOLVER, denoise, x_T)
    assert result.dtype == torch.float32 and result.shape == x_T.shape
    assert s4s.sample(SOLVER, denoise, x_T.bfloat16()).dtype == torch.bfloat16


def test_gradients_of_arrays_and_start() -> None:
    arrays = [getattr(SOLVER, key).clone().requires_grad_(key != "sigma") for key in ARRAYS]
    lower = torch.ones(5, 4, dtype=torch.float64).tril(-1)
    first = torch.tensor([1.0, 0, 0, 0, 0], dtype=torch.float64)

    def run(sigma_eval: Tensor, start: Tensor, weight: Tensor, x_T: Tensor) -> Tensor:
        solver = s4s.Solver(arrays[0], sigma_eval, first + (1 - first) * start, lower * weight)
        return s4s.sample(solver, denoise, x_T)

    assert torch.autograd.gradcheck(run, (*arrays[1:], X_T.clone().requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_outputs_of_another_dtype_are_weighed_in_that_of_x_T(dtype: torch.dtype) -> None:
    seen = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(x.dtype)
        return torch.full_like(x, 0.5, dtype=dtype)

    solver = s4s.solver("ipndm", s4s.grid("edm", s4s.EDM(), 5))
    x = s4s.sample(solver, denoise, X_T.float())
    assert {*seen, x.dtype} == {torch.float32}
    assert torch.equal(x, s4s.sample(solver, lambda x, sigma: torch.full_like(x, 0.5), X_T.float()))


@pytest.mark.parametrize("layer", [torch.nn.Linear(2, 2), torch.nn.Conv1d(1, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_states_of_another_dtype_than_the_weights(layer: torch.nn.Module, dtype: torch.dtype) -> None:
    denoise = s4s.EDM().denoiser(lambda x, time: layer(x), "x0")
    made = s4s.solver("ddim", s4s.grid("edm", s4s.EDM(), 3))
    told = (
        f"the network does not take states of {str(dtype)[6:]}: give x_T in the dtype of its weights, such as x_T.float"
    )
    with pytest.raises(s4s.Error, match=told) as caught:
        s4s.sample(made, denoise, torch.ones(4, 1, 2, dtype=dtype))
    assert "\n" not in str(caught.value)
    assert s4s.sample(made, denoise, torch.ones(4, 1, 2)).dtype == torch.float32


def test_nan_names_the_step_and_the_level() -> None:
    def broken(x: Tensor, sigma: Tensor) -> Tensor:
        return x if sigma > 1 else x / 0

    with pytest.raises(s4s.Error, match=r"NaN or infinity at step 3 of 4, level sigma = 0\.9"):
        s4s.sample(SOLVER, broken, X_T)
    assert not s4s.sample(SOLVER, broken, X_T, check=False).isfinite().all()


def test_wrong_shape_names_the_step() -> None:
    with pytest.raises(s4s.Error, match=r"denoise returned shape \[2, 1\] at step 0 for states \[2, 2\]"):
        s4s.sample(SOLVER, lambda x, sigma: x[:, :1], X_T)


@pytest.mark.parametrize(("change", "message"), [
    ({"solver": s4s.Bundle({4: SOLVER})}, r"one solver is needed, got a Bundle: take that of a number of evaluations"),
    ({"solver": "solver.json"}, "a solver is needed, got a str: make one with s4s.solver, or read one"),
    ({"denoise": None}, r"denoise must be a function, such as process.denoiser\(net\), got a NoneType"),
    ({"denoise": lambda x, sigma: (x,)}, r"denoise returned a tuple at step 0 for states \[2, 2\]"),
    ({"x_T": X_T.long()}, "x_T must be a tensor of floating point numbers, got torch.int64"),
])  # fmt: skip
def test_what_cannot_be_sampled_is_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(s4s.Error, match=message):
        s4s.sample(**{"solver": SOLVER, "denoise": denoise, "x_T": X_T} | change)


@pytest.mark.parametrize(("change", "message"), [
    ({"name": None}, "'name' must be a string and 'provenance' an object, got a NoneType"),
    ({"provenance": [1]}, "'provenance' an object, got a str and a list"),
    ({"noise": 80.0}, r"noise of a solver must be an s4s.Start\(mean, scale\), got a float"),
])  # fmt: skip
def test_what_a_file_could_not_hold_is_no_solver(change: dict[str, Any], message: str) -> None:
    with pytest.raises(s4s.Error, match=message):
        SOLVER.replace(**change)


def test_starting_noise_is_a_tensor() -> None:
    with pytest.raises(s4s.Error, match="the noise must be a tensor of floating point numbers, got NoneType"):
        SOLVER.x_T(None)  # type: ignore[arg-type]


def test_a_solver_is_a_value() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SOLVER.name = "other"  # type: ignore[misc]
    assert SOLVER.replace(name="other").name == "other" and SOLVER.name == "unipc3"
    learned = SOLVER.replace(weight=SOLVER.weight.clone().requires_grad_())
    assert learned.weight.requires_grad and not learned.detach().weight.requires_grad
    assert SOLVER.nfe == 4


def test_file_is_whole_and_readable(tmp_path: Path) -> None:
    path = tmp_path / "new" / "solver.json"
    SOLVER.save(path)
    assert [file.name for file in path.parent.iterdir()] == ["solver.json"]
    assert json.loads(path.read_text())["name"] == "unipc3"
    again = s4s.load_solver(path)
    assert again.provenance == SOLVER.provenance
    assert torch.equal(s4s.sample(again, denoise, X_T), s4s.sample(SOLVER, denoise, X_T))


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0, 1))
def test_truncated_file(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    path = tmp_path_factory.mktemp("solver") / "solver.json"
    SOLVER.save(path)
    text = path.read_text().rstrip()
    path.write_text(text[: int(share * (len(text) - 1))])
    with pytest.raises(s4s.Error, match="truncated"):
        s4s.load_solver(path)


@pytest.mark.parametrize(("change", "message"), [
    ({"schema": "other"}, "the key 'schema' must be 's4s-solver'"),
    ({"version": 4}, "version 4 is not supported"),
    ({"version": None}, "version None"),
    ({"version": True}, "version True is not supported"),
    ({"version": 3, "null": None}, "'null' belongs to schema version 3, and 3 needs it"),
    ({"nfe": 7}, "'nfe' is 7, and the arrays are of 4 evaluations"),
    ({"start": [1, 10**400, 0.3, 0.2, 0.1]}, "'start' is not a rectangular array of numbers"),
    ({"name": 3}, "'name' must be a string"),
    ({"provenance": []}, "'provenance' an object"),
    ({"weight": [[0.0]]}, r"'weight' has shape \[1, 1\], needs \[5, 4\]"),
    ({"weight": [[0.0], [1.0, 2.0]]}, "not a rectangular array of numbers"),
    ({"weight": "abc"}, "not a rectangular array of numbers"),
    ({"weight": None}, "'weight'"),
    ({"sigma": [[1.0]]}, "'sigma' has shape"),
    ({"sigma": [4.0, 2.5, 2.6, 0.9, 0.5]}, r"must fall: sigma\[1\] = 2.5 is followed by sigma\[2\] = 2.6"),
    ({"sigma": [4.0, 2.5, 1.4, 0.0, 0.0]}, "must be positive; only the last may be 0"),
    ({"sigma": [4.0, 2.5, 1.4, 0.9, -0.5]}, "must be positive; only the last may be 0"),
    ({"sigma_eval": [4.0, 2.5, 1.4, 0.0]}, "'sigma_eval' must be positive"),
    ({"sigma_eval": []}, "needs"),
    ({"start": [1.0, 0.5, float("nan"), 0.2, 0.1]}, "'start' holds NaN"),
    ({"start": [0.9, 0.5, 0.3, 0.2, 0.1]}, r"start\[0\] == 1"),
    ({"weight": torch.eye(5, 4).tolist()}, "not an explicit solver"),
])  # fmt: skip
def test_bad_file(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "solver.json"
    path.write_text(json.dumps(SOLVER.to_dict() | change))
    with pytest.raises(s4s.Error, match=message) as caught:
        s4s.load_solver(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "null", "[" * 100_000, '{"schema": "s4s-solver"}', '{"schema": "s4s-solver", "version": 1}']
)
def test_not_a_solver(tmp_path: Path, text: str) -> None:
    path = tmp_path / "solver.json"
    path.write_text(text)
    with pytest.raises(s4s.Error):
        s4s.load_solver(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(s4s.Error, match="cannot read the solver file: No such file"):
        s4s.load_solver(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(s4s.Error, match="not a solver file"):
        s4s.load_solver(tmp_path / "bytes.json")


# --- noise ---


@settings(max_examples=20, deadline=None)
@given(size=st.integers(1, 9), seed=st.integers(0, 2**63))
def test_noise_does_not_depend_on_the_batch(size: int, seed: int) -> None:
    whole = s4s.noise(seed, range(9), (2, 3))
    parts = [s4s.noise(seed, range(i, min(i + size, 9)), (2, 3)) for i in range(0, 9, size)]
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(whole[[5, 2]], s4s.noise(seed, [5, 2], (2, 3)))


def test_noise_is_pinned() -> None:
    """Fitted solvers and published samples depend on these numbers: they may never change."""
    first = [0.15929546600623282, -1.7741885208017214, 1.3265118818830892]
    second = [-0.7440191742693708, -0.01442460974068005, 0.5053939916649247]
    assert s4s.noise(0, [0, 1], (3,)).tolist() == [first, second]


def test_noise_is_standard_normal() -> None:
    x = s4s.noise(1, range(2000), (5, 5))
    assert x.dtype == torch.float64 and x.shape == (2000, 5, 5)
    assert x.mean().abs() < 0.02 and (x.var() - 1).abs() < 0.02
    assert s4s.noise(1, [], (5, 5)).shape == (0, 5, 5)
    assert not torch.equal(s4s.noise(2, [0], (5,)), s4s.noise(1, [0], (5,)))
    assert s4s.noise(0, [0], ()).shape == (1,)


def test_a_file_may_be_named_by_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    made = s4s.solver("ddim", s4s.grid("edm", s4s.EDM(), 3))
    made.save("~/s.json")
    s4s.Bundle({3: made}).save("~/b.json")
    assert (tmp_path / "s.json").exists() and (tmp_path / "b.json").exists()
    assert torch.equal(s4s.load_solver("~/s.json").weight, made.weight) and list(s4s.load_bundle("~/b.json")) == [3]


def test_a_run_goes_on_after_known_outputs() -> None:
    made: list[Tensor] = []
    end = s4s.sample(SOLVER, denoise, X_T, outputs=made)
    asked: list[int] = []
    for known in range(5):
        outputs = made[:known]
        asked.clear()
        again = s4s.sample(SOLVER, denoise, X_T, outputs=outputs, callback=lambda n, x, D: asked.append(n))
        assert torch.equal(again, end) and asked == [*range(known, 4)]
        assert all(torch.equal(a, b) for a, b in zip(outputs, made, strict=True))


@pytest.mark.parametrize(("solver", "outputs", "words"), [
    (SOLVER.replace(null=SOLVER.weight), [X_T], "solvers without null alone"),
    (SOLVER, [X_T] * 5, r"nfe 4: give those of its first evaluations"),
    (SOLVER, [X_T[:1]], r"outputs of shapes \[1, 2\] for states \[2, 2\]"),
])  # fmt: skip
def test_outputs_that_cannot_be_its_first_are_refused(solver: s4s.Solver, outputs: list[Tensor], words: str) -> None:
    with pytest.raises(s4s.Error, match=words):
        s4s.sample(solver, denoise, X_T, outputs=outputs)
