"""Others' learned solvers, from files in their layouts: each gives what its own sampling loop gives."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import learned_files as theirs
import nvidia_pickle as nvidia
import pytest
import torch
from problems import TwoPoints
from torch import Tensor

import s4s
from s4s.cli.main import main
from s4s.zoo import published

EDM = s4s.EDM()
GRID = s4s.grid("edm", EDM, 4)
NORMAL = torch.randn(8, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def net(x: Tensor, sigma: Tensor) -> Tensor:
    return TwoPoints().denoise(x, sigma)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-9 * b.abs().max().item(), rtol=1e-9)


def written(path: Path, top: dict[str, Any]) -> Path:
    path.write_bytes(nvidia.dump(top))
    return path


@pytest.mark.parametrize("afs", [True, False])
def test_dyweight(tmp_path: Path, afs: bool) -> None:
    top = theirs.dyweight_top(afs=afs)
    made = published.dyweight(written(tmp_path / "d.pkl", top))
    assert made.nfe == 4 - afs and made.provenance["data"] == "toy" and made.provenance["afs"] is afs
    assert made.provenance["file_sha256"] == hashlib.sha256((tmp_path / "d.pkl").read_bytes()).hexdigest()
    found = s4s.sample(made, net, made.x_T(NORMAL))
    close(found, theirs.dyweight_loop(top, GRID, net, 80 * NORMAL))
    assert (made.noise is None) is not afs, "its first step asks no network: it starts below, from more than sigma"


@pytest.mark.parametrize("options", [{}, {"afs": True, "fcn": True}, {"scale_dir": 0, "scale_time": 0}])
def test_epd(tmp_path: Path, options: dict[str, Any]) -> None:
    top = theirs.epd_top(**options)
    made = published.epd(written(tmp_path / "e.pkl", top))
    assert made.nfe == 9 - options.get("afs", False) and (made.sigma.diff() <= 0).all()
    close(s4s.sample(made, net, made.x_T(NORMAL)), theirs.epd_loop(top, s4s.grid("edm", EDM, 3), net, 80 * NORMAL))


def test_gs_is_rescaled_where_the_network_is_told_another_time(tmp_path: Path) -> None:
    parameters = theirs.gs_file(tmp_path / "g.pt")
    made = published.gs(tmp_path / "g.pt")
    process = published._vp_of_edm(1e-3)
    assert process.sigma_max == pytest.approx(80) and process.sigma_min == pytest.approx(0.010486, rel=1e-4)
    times = published._stick(parameters[0], 1e-3)
    expected = theirs.gs_loop(parameters, process, times, net, NORMAL) / process.alpha(times[-1])
    close(s4s.sample(made, net, made.x_T(NORMAL)), expected)
    assert made.noise is not None and made.sigma_eval[0] < made.sigma[0] == pytest.approx(80)


@pytest.mark.parametrize("process", [EDM, s4s.Cosine(), s4s.Flow()])
def test_gs_needs_a_process_from_time_1(tmp_path: Path, process: Any) -> None:
    theirs.gs_file(tmp_path / "g.pt")
    with pytest.raises(
        s4s.Error, match=r"its times fall from 1, those of .*: give a process that starts at 1, and none"
    ):
        published.gs(tmp_path / "g.pt", process)
    assert published.gs(tmp_path / "g.pt", s4s.VPLinear()).sigma[0] == pytest.approx(s4s.VPLinear().sigma_max)


@pytest.mark.parametrize("t_eps", [0.0, 1.0, 2.0, -1.0, float("nan"), "a"])
def test_the_last_time_of_gs_lies_between_0_and_1(tmp_path: Path, t_eps: Any) -> None:
    theirs.gs_file(tmp_path / "g.pt")
    with pytest.raises(s4s.Error, match="t_eps = "):
        published.gs(tmp_path / "g.pt", None, t_eps)


@pytest.mark.parametrize(("name", "order"), [("ipndm", 2), ("dpmpp", 3), ("unipc", 2)])
def test_ld3(tmp_path: Path, name: str, order: int) -> None:
    """On EDM's levels it is the textbook solver told other levels; the numbers of files are times of the process."""
    times = torch.tensor([80.0, 9.0, 2.0, 0.4, 0.002], dtype=torch.float64)
    told = times * torch.tensor([0.99, 1.02, 0.95, 1.1, 1.0])
    torch.save({"params1": times, "best_t_steps": torch.cat([times, told])}, tmp_path / "best_v2.pt")
    made = published.ld3(tmp_path / "best_v2.pt", EDM, name, order=order)
    same = s4s.solver(name, times, sigma_eval=told[:-1], order=order)
    for key in ("sigma", "sigma_eval", "start", "weight"):
        close(getattr(made, key), getattr(same, key))
    assert made.noise is None and made.name == f"ld3({name}{order})"


def test_ld3_of_a_vp_model_sees_the_state_unscaled(tmp_path: Path) -> None:
    """First order, by hand: ``x' = a'/a x - s' (e^h - 1) eps(x, told)`` on the process's own state."""
    process = s4s.VPLinear()
    times = torch.tensor([1.0, 0.6, 0.2, 1e-3], dtype=torch.float64)
    told = times - torch.tensor([0.01, -0.02, 0.01, 0.0])
    torch.save({"best_t_steps": torch.cat([times, told])}, tmp_path / "best_v1.pt")
    made = published.ld3(tmp_path / "best_v1.pt", process, "ipndm", order=1)
    x = NORMAL
    for n in range(3):
        alpha, sigma = process.alpha(told[n]), process.sigma(told[n])
        eps = (x - alpha * net(x / alpha, sigma / alpha)) / sigma
        a, b = times[n], times[n + 1]
        h = (process.level(a) / process.level(b)).log()
        x = process.alpha(b) / process.alpha(a) * x - process.sigma(b) * torch.expm1(h) * eps
    close(s4s.sample(made, net, made.x_T(NORMAL)), x / process.alpha(times[-1]))


def test_grids_as_papers_print_them() -> None:
    gits = [80, 10.9836, 3.8811, 1.584, 0.5666, 0.1698, 0.002]
    made = published.grid(gits, EDM)
    assert made.sigma.tolist() == gits and made.name == "ipndm3"
    process = published.PROCESSES["sd"]()
    steps = [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]
    levels = published.levels_of(steps, process)
    torch.testing.assert_close(process.model_time(levels), torch.tensor(steps, dtype=torch.float64), rtol=0, atol=1e-6)
    assert levels[0] == pytest.approx(14.6146, rel=1e-5)
    assert published.PROCESSES["ldm"]().sigma_max == pytest.approx(83.8225, rel=1e-5)
    assert published.levels_of([0.9, 0.1], s4s.Flow()) == pytest.approx([9, 1 / 9])


# --- refused in one line ---


def edited(top: dict[str, Any], key: str, change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    change(nvidia.state(top[key]))
    return top


def without_scales(top: dict[str, Any]) -> dict[str, Any]:
    return edited(top, "predictor", lambda state: state["_parameters"].pop("t_scale"))


def small_mask(top: dict[str, Any]) -> dict[str, Any]:
    return edited(top, "predictor", lambda state: state["_buffers"].update(mask=nvidia.tensor(torch.ones(2, 2))))


def no_number(top: dict[str, Any]) -> dict[str, Any]:
    bad = nvidia.parameter(torch.full((3, 2), torch.nan))
    return edited(top, "model", lambda state: state["_parameters"].update(r_params=bad))


SYSTEM = {"model": nvidia.Call(nvidia.Name("os", "system"), ("true",))}
Read = Callable[[Path], Any]
PICKLES: dict[str, tuple[Read, dict[str, Any], str]] = {
    "a grid of the model's": (
        published.dyweight, theirs.dyweight_top(schedule_type="discrete"),
        "its grid is of kind 'discrete', with levels of its model: give the model's process, or the levels",
    ),
    "too few levels": (
        lambda path: published.dyweight(path, [80, 1]), theirs.dyweight_top(), "makes 4 steps and needs 5 levels, got 2"
    ),
    "weights of another size": (
        published.dyweight, small_mask(theirs.dyweight_top()), "its weights, mask and scales are not of one number of"
    ),
    "weights that are missing": (
        published.dyweight, without_scales(theirs.dyweight_top()), "'t_scale' is missing, or not the numbers that a DyW"
    ),
    "NaN": (published.epd, no_number(theirs.epd_top()), "'r_params' is missing, or not the numbers"),
    "a flow": (published.epd, theirs.epd_top(backend="flux"), "for flux, a flow from time 1, which has no noise level"),
    "another method's file": (published.epd, theirs.dyweight_top(), "holds no EPD_predictor under 'model'"),
    "a name that is not of the format": (
        published.epd, SYSTEM, r"refers to 'os\.system', which is not allowed in this format; nothing was run"
    ),
}  # fmt: skip
ARCHIVES: dict[str, tuple[Read, dict[str, Any], str]] = {
    "for a pickle": (published.dyweight, {"theta": NORMAL}, "a torch archive, as DyWeight's for FLUX: a flow"),
    "no times": (lambda path: published.ld3(path, EDM), {"t": NORMAL}, "holds no 'best_t_steps', two times for"),
    "no parameters": (published.gs, {"t": NORMAL}, "holds no averaged parameters, 'shadow_params' under 'ema'"),
    "parameters of a network": (
        published.gs, {"ema": {"shadow_params": [torch.ones(2, 2)] * 4}}, "are not times, shifts, and two numbers"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [*PICKLES, *ARCHIVES])
def test_refused_in_one_line(name: str, tmp_path: Path) -> None:
    read, top, message = (PICKLES | ARCHIVES)[name]
    path = tmp_path / "file"
    if name in PICKLES:
        written(path, top)
    else:
        torch.save(top, path)
    with pytest.raises(s4s.Error, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


# --- s4s import ---


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    try:
        main(["import", *arguments])
    except SystemExit as done:
        if done.code:
            return capsys.readouterr().err
    return capsys.readouterr().out


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "d.pkl", theirs.dyweight_top(schedule_type="discrete"))
    written(tmp_path / "e.pkl", theirs.epd_top())
    theirs.gs_file(tmp_path / "g.pt")
    torch.save({"best_t_steps": torch.tensor([80.0, 5.0, 0.002] * 2)}, tmp_path / "l.pt")
    said = {
        ("grid", "--levels", "80,5,0.002", "--solver", "dpmpp", "--order", "2"): "dpmpp2, 2 evaluations",
        ("grid", "--times", "[999, 500, 24]", "--process", "sd", "--order", "1"): "ipndm1, 2 evaluations",
        ("ld3", "l.pt", "--order", "2"): "ld3(ipndm2), 2 evaluations",
        ("dyweight", "d.pkl", "--process", "ldm"): "dyweight, 3 evaluations",
        ("dyweight", "d.pkl", "--levels", "80,9,3,1,0.1"): "dyweight, 3 evaluations",
        ("epd", "e.pkl"): "epd, 9 evaluations",
        ("gs", "g.pt", "--t-eps", "0.002"): "gs, 5 evaluations",
    }
    for arguments, expected in said.items():
        assert run(*arguments, "--out", "out.json", capsys=capsys) == f"out.json  {expected}\n"
        assert s4s.load_solver("out.json").nfe == int(expected.split()[1])
    refused = {
        ("grid",): "a grid is either --levels or --times",
        ("grid", "--levels", "80,x"): "'80,x' is not numbers with commas between them",
        (
            "grid",
            "--levels",
            "80,1",
            "--process",
            "ve",
        ): "unknown process 've'; choose one of: edm, flow, ldm, sd, vp-linear",
        ("dyweight", "d.pkl", "--levels", "80,1", "--process", "sd"): "give --levels or --process, not both",
    }
    for arguments, expected in refused.items():
        assert run(*arguments, "--out", "out.json", capsys=capsys) == f"s4s: {expected}\n"
    before = Path("l.pt").read_bytes()
    named = run("ld3", "l.pt", "--order", "2", "--out", "l.pt", capsys=capsys)
    assert named == "s4s: l.pt: is there, and no file of solvers; name another\n"
    assert Path("l.pt").read_bytes() == before
