"""Fits need no scoring: without a network, Inception or a reference, a local model gets its teacher and solvers."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from commands import Commands
from pipelines import ddim, ddpm_folder, unet

from s4s.cli.main import main
from s4s.score.features import INCEPTION
from s4s.stages import doctor
from s4s.stages.config import check

DDIM = {"solver": {"name": "ddim"}, "schedule": "edm"}
LEARNED = "s4s_ddim_edm_nfe2_seed0"


@pytest.fixture(autouse=True)
def cut(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("s4s.download.WAIT", 0.0)
    monkeypatch.chdir(tmp_path)


def written(channels: int = 3, **changes: Any) -> dict[str, Any]:
    """A config around a pipeline of so many channels in ``net``, in ``c.yaml``, scored by EDM's protocol."""
    if not Path("net").exists():
        ddpm_folder(Path("net"), unet(in_channels=channels, out_channels=channels), ddim())
    config: dict[str, Any] = {
        "benchmark": "own", "device": "cpu", "model": {"type": "diffusers", "path": "net", "batch": 8},
        "teacher": {"solver": {"name": "ddim"}, "schedule": "edm", "nfe": 4, "train": 16, "validation": 8},
        "nfe": [2], "classical": {"solvers": [{"name": "ddim"}], "schedules": ["edm"]},
        "learned": {"methods": ["s4s"], "starts": [DDIM], "rounds": 1, "distance": "l2"},
        "sample": {"n": 8}, "score": {"protocol": "edm", "data": "cifar10"},
    }  # fmt: skip
    config |= changes
    Path("c.yaml").write_text(yaml.safe_dump(config))
    return config


def failed(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """A command that ends with one line, which it returns."""
    with pytest.raises(SystemExit):
        main(arguments)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("s4s: ")]
    assert len(lines) == 1, lines
    return lines[0]


def ran(*arguments: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert not end.value.code


@pytest.mark.parametrize("download", [(), ("download", "c.yaml"), ("download", "c.yaml", "--part", "network")])
def test_teacher_and_fit_work_without_a_network(capsys: pytest.CaptureFixture[str], download: tuple[str, ...]) -> None:
    """Whether or not someone has tried to download; scoring then says what it lacks."""
    written()
    if download[2:]:
        ran(*download)
    elif download:
        assert INCEPTION.url in failed(*download, capsys=capsys)
    ran("teacher", "c.yaml")
    ran("fit", "c.yaml", LEARNED, "classical_ddim_edm_nfe2")
    assert Path(f"results/own/solvers/{LEARNED}.json").exists()
    ran("sample", "c.yaml", LEARNED)
    assert INCEPTION.url in failed("evaluate", "c.yaml", LEARNED, capsys=capsys)
    assert not Path("results/own/models/scoring.json").exists()


def test_the_pipeline_fetches_for_scores_only_what_scores_need(commands: Commands) -> None:
    written()
    for stage, needed in (("teacher", False), ("fit", False), ("features", True), ("evaluate", True)):
        planned = commands.snakemake(Path(), "-n", "-q", "rules", "--configfile", "c.yaml", "--until", stage)
        assert ("download_scoring" in planned.stdout) == needed, stage
        assert "download " in planned.stdout


def test_a_model_that_is_not_here_says_how_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    written(model={"type": "diffusers", "id": "nobody/nothing"})
    assert "or run `s4s download CONFIG` where there is a network" in failed("teacher", "c.yaml", capsys=capsys)


@pytest.mark.parametrize("channels", [1, 4])
def test_channels_that_the_extractor_cannot_take_are_found_first(
    capsys: pytest.CaptureFixture[str], channels: int
) -> None:
    """By doctor, and by the first job of the pipeline; never when all has been sampled."""
    config = check(written(channels))
    message = f"inception-v3-compat takes images of 3 channels, these have {channels}"
    found = {item.name: item for item in doctor.benchmark(config, Path("results"))}
    assert found["channels"].state == "missing" and message in found["channels"].text
    ran("download", "c.yaml", "--part", "network")
    assert message in failed("download", "c.yaml", "--part", "scoring", capsys=capsys)
    ran("teacher", "c.yaml")


@pytest.mark.parametrize(
    ("own", "place"),
    [
        ({"distance": {"l2": 1, "lpips": 1}}, "learned.distance"),
        ({"methods": ["s4s", {"name": "s4s", "distance": "lpips"}], "distance": "l2"}, "learned.methods.1.distance"),
    ],
)
def test_channels_that_lpips_cannot_take(own: dict[str, Any], place: str) -> None:
    config = check(written(1, learned={"methods": ["s4s"], "starts": [DDIM]} | own,
                           score={"protocol": "edm", "data": "cifar10",
                                  "extractor": {"name": "own", "layer": "1"}}))  # fmt: skip
    found = {item.name: item for item in doctor.benchmark(config, Path("results"))}
    assert f"{place}: lpips compares images of 3 channels, and these have 1; use l2" in found["channels"].text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"process": {"t_min": 0.0001}}, "t_min = 0.0001 is below the first of the 1000 times, 0.001"),
        ({"process": {"t_max": 0.0005}}, "needs 0 < t_min < t_max"),
        ({"model": {"type": "diffusers", "path": "net", "guidance": 2.0}}, "guidance = 2.0 needs a class-conditional"),
        ({"model": {"type": "diffusers", "path": "net", "classes": "random"}}, "classes = random needs a class-cond"),
        ({"model": {"type": "diffusers", "path": "net", "null_class": 0}}, "null_class = 0 needs a class-conditional"),
    ],
)
def test_doctor_says_what_the_loader_would(changes: dict[str, Any], message: str) -> None:
    config = check(written(**changes))
    found = list(doctor.benchmark(config, Path("results")))
    assert any(item.state == "missing" and message in item.text for item in found), found


def test_doctor_is_content_with_what_fits() -> None:
    found = {item.name: item.state for item in doctor.benchmark(check(written()), Path("results"))}
    assert found["solvers"] == found["channels"] == "ok"


def test_a_reference_of_other_channels_is_found() -> None:
    reference = {"kind": "dataset", "where": "digits"}
    config = check(written(score={"protocol": "edm", "reference": reference}))
    found = {item.name: item for item in doctor.benchmark(config, Path("results"))}
    assert "takes images of 3 channels, these have 1" in found["reference"].text
