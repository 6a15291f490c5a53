"""``s4s learn``: a saved pipeline in, solvers, scheduler and page out; what is not right is one line."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import saved as builders
import torch
from click.testing import CliRunner, Result
from pipelines import close, diffusers, edit_json

import s4s
from s4s.cli.main import cli
from s4s.errors import Notice
from s4s.integrations.diffusers import S4SScheduler
from s4s.learn import effort as sizes
from s4s.learn.effort import LADDER, Cost
from s4s.models import captions, saved
from s4s.stages.asked import Prompts
from s4s.stages.learned import pictures

SIZE = ("--size", "16", "--set", "max_sequence_length=16", "--batch", "24")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least work, and a plan that costs nothing."""
    monkeypatch.setattr(sizes, "DEFAULT", LADDER[0])
    monkeypatch.setattr(sizes, "LEAST", 0.0)
    monkeypatch.setattr(sizes, "fit_cost", lambda nfe, *sizes: Cost(1600 * nfe, 960 * nfe))


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return builders.flux(tmp_path_factory.mktemp("flux"))


def learn(pipeline: Path | str, out: Path | str, *options: str) -> Result:
    return CliRunner().invoke(cli, ["learn", str(pipeline), "--out", str(out), *options])


def test_one_command_leaves_solvers_a_scheduler_and_a_page(flux: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = learn(flux, out, "--nfe", "2", "3", *SIZE)
    assert run.exit_code == 0, run.output
    assert sorted(path.name for path in out.iterdir()) == ["learned.html", "learned.json", "scheduler", "solvers.json"]
    plan = run.stderr.splitlines()
    assert plan[0] == "FluxPipeline: latents 16 x 16, predicts flow, noise levels 999 to 0.001001"
    assert plan[1] == "prompts: 64 built in, 48 to learn from, 16 held out"
    assert any(re.match(r"about \d+ \w+ on cpu, float32, \d+ rows a call, timed on two calls", line) for line in plan)
    _the_lines_of_code_run(flux, out, run.stdout)
    _the_page_stands_alone(out)
    record = json.loads((out / "learned.json").read_text())
    for nfe in ("2", "3"):
        assert record["held_out"][nfe]["learned"] < record["held_out"][nfe]["textbook"]
        assert record["own"]["steps"][nfe] == {"steps": int(nfe), "evaluations": int(nfe)}
    _another_size_is_noticed(flux, out)
    again = learn(flux, out, "--nfe", "3", "2", *SIZE, "--batch", "5")  # another batch is the same work
    assert "learned before with these settings, nothing to do" in again.stderr and again.stdout == run.stdout
    other = learn(flux, out, "--nfe", "2", *SIZE)
    assert str(other.exception) == (f"{out}: holds what was learned with another nfe ([2, 3] there, [2] now); "
                                    "give another --out, or remove it")  # fmt: skip


def test_a_pipeline_of_videos(tmp_path: Path) -> None:
    run = learn(builders.wan(tmp_path), tmp_path / "out", "--nfe", "2", *SIZE, "--set", "num_frames=5")
    assert run.exit_code == 0, run.output
    assert run.stderr.startswith("WanPipeline: latents 4 x 2 x 8 x 8, predicts flow")
    assert "num_frames=5" in run.stdout and run.stdout.rstrip().endswith(".frames[0]")
    solver = s4s.load_bundle(tmp_path / "out" / "solvers.json")[2]
    assert solver.provenance["derivatives"] == "reverse mode"
    text = (tmp_path / "out" / "learned.html").read_text()
    assert text.count("<img ") == text.count('src="data:image/') == 4 * (1 + 3)


def test_classes_are_in_the_lines_of_code(tmp_path: Path) -> None:
    folder, out = builders.dit(tmp_path / "dit"), tmp_path / "out"
    run = learn(folder, out, "--nfe", "2", "--guidance", "1", "--set", "class_labels=[1, 2, 3]", "--batch", "24")
    assert run.exit_code == 0, run.output
    assert json.loads((out / "learned.json").read_text())["call"]["class_labels"] == [1, 2, 3]
    given: dict[str, Any] = {"pipe": saved.open_pipeline(folder)}
    exec("\n".join(run.stdout.splitlines()[-3:]).removesuffix("[0]"), given)
    assert len(given["out"]) == 3


def test_lists_become_the_tuples_that_a_pipeline_asks_for(tmp_path: Path) -> None:
    folder, out = builders.sdxl(tmp_path / "sdxl"), tmp_path / "out"
    (tmp_path / "two.txt").write_text("a\nb\n")
    asked = ("--nfe", "2", "--size", "16", "--batch", "24", "--prompts", str(tmp_path / "two.txt"),
             "--set", "original_size=[16, 32]")  # fmt: skip
    run = learn(folder, out, *asked)
    assert run.exit_code == 0, run.output
    assert "original_size=(16, 32)" in run.stdout and learn(folder, out, *asked).stdout == run.stdout


def _another_size_is_noticed(folder: Path, out: Path) -> None:
    """The card has the shift that the pipeline gives for the size that was learned for."""
    pipe = saved.open_pipeline(folder)
    scheduler = S4SScheduler.from_pretrained(out / "scheduler")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        scheduler.install(pipe)
        pipe("a", width=16, height=16, num_inference_steps=2, max_sequence_length=16, output_type="latent")
    with pytest.warns(Notice, match="shift of this resolution: the solver is for"):
        pipe("a", width=160, height=160, num_inference_steps=2, max_sequence_length=16, output_type="latent")


def _the_lines_of_code_run(folder: Path, out: Path, printed: str) -> None:
    """As printed, on the pipeline loaded anew; a sample is the solver's own."""
    code = "\n".join(printed.splitlines()[-3:])
    pipe = saved.open_pipeline(folder)
    given: dict[str, Any] = {"pipe": pipe, "z": s4s.noise(5, range(1), (16, 16)).float()}
    assert code.endswith(").images[0]")
    exec(code.replace(").images", ", output_type='latent', latents=z).images"), given)
    assert list(pipe.scheduler.bundle) == list(s4s.load_bundle(out / "solvers.json")) == [2, 3]
    model = s4s.pipeline_denoiser(pipe, prompt="a lighthouse on a rocky coast", width=16, height=16,
                                  max_sequence_length=16)  # fmt: skip
    solver = s4s.load_bundle(out / "solvers.json")[3]
    with torch.no_grad():
        x = s4s.sample(
            solver, model.denoiser(model.condition(range(1))), model.process.to_edm(given["z"], solver.sigma[0])
        )
    close(given["out"], x[0])


def _the_page_stands_alone(out: Path) -> None:
    text = (out / "learned.html").read_text()
    assert "<script" not in text and "http" not in text and text.count("<img ") == 4 * (1 + 3) * 2
    assert all(each.startswith("data:image/png;base64,") for each in re.findall(r'src="([^"]*)"', text))
    assert captions.neutral()[48] in text, "the prompts of the pictures are held out"
    assert "S4SScheduler.from_pretrained" in text and text.count("<tr>") > 10


def test_killed_it_goes_on_to_the_same_bytes(flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from s4s.stages import learn as stage

    options = ("--nfe", "2", "--samples", "8", *SIZE)
    assert learn(flux, tmp_path / "a" / "out", *options).exit_code == 0
    write, calls = stage.write_page, []

    def dying(*args: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        write(*args)

    monkeypatch.setattr(stage, "write_page", dying)
    assert learn(flux, tmp_path / "b" / "out", *options).exit_code != 0
    assert (tmp_path / "b" / "out" / "unfinished" / "learned2.json").exists()
    wrong = learn(flux, tmp_path / "b" / "out", *options, "--guidance", "2")
    assert "learned with another guidance (the default there, 2.0 now)" in str(wrong.exception)
    assert learn(flux, tmp_path / "b" / "out", *options).exit_code == 0
    for name in ("solvers.json", "learned.json", "scheduler/scheduler_config.json"):
        assert (tmp_path / "a" / "out" / name).read_bytes() == (tmp_path / "b" / "out" / name).read_bytes()


@pytest.mark.parametrize(("options", "message"), [
    (("--prompts", "none.txt"), "none.txt: cannot read the prompts (No such file or directory)"),
    (("--prompts", "empty.txt"), "empty.txt: holds no prompts; write one a line"),
    (("--prompts", "blank.txt"), "blank.txt: caption 2 is blank"),
    (("--prompts", "bytes.txt"), "bytes.txt: the prompts are not UTF-8 text"),
    (("--time", "10"), "--time 10: give seconds, minutes or hours, such as 90s, 10m or 1.5h"),
    (("--time", "0m"), "--time 0m: give"),
    (("--size", "5x"), "--size 5x: give pixels"),
    (("--nfe", "4,6"), "--nfe 4,6: give whole numbers with blanks between them, such as --nfe 4 6 8"),
    (("--guidance", "nan"), "guidance nan: give a finite number"),
    (("--set", "x"), "--set x: give NAME=VALUE"),
    (("--dtype", "float8"), "unknown dtype 'float8'; choose one of: bfloat16, float16, float32"),
    (("--device", "gpu"), "device 'gpu' is not here"),
    (("--device", "meta:9"), "device 'meta:9' is not here"),
    (("--set", "prompt=a"), "prompts are those of a file, one a line: --prompts FILE"),
    (("--time", "0.001s"), "the least that can be learned here takes about"),
    (("--set", "colour=red"), "unknown argument of FluxPipeline 'colour'; choose one of"),
    (("--set", "num_inference_steps=3"), "num_inference_steps= is set by the solver"),
    (("--set", "max_sequence_length=9999"), "ValueError: `max_sequence_length` cannot be greater than 512"),
])  # fmt: skip
def test_bad_settings_are_one_line(
    flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, data in {"empty.txt": b"\n \n", "blank.txt": b"a\n\nb\n", "bytes.txt": b"\xff\xff"}.items():
        Path(name).write_bytes(data)
    run = learn(flux, "out", *options)
    assert isinstance(run.exception, s4s.Error) and message in str(run.exception), run.exception
    assert "\n" not in str(run.exception) and not Path("out").exists()


def _python_component(folder: Path) -> None:
    edit_json(folder / "model_index.json", transformer=["mine", "MyTransformer"])
    (folder / "transformer" / "mine.py").write_text("raise SystemExit('run')")


def _pickle(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(folder / "vae" / "diffusion_pytorch_model.bin")


def _cut(folder: Path) -> None:
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:900])


def _not_a_number(folder: Path) -> None:
    net = diffusers.FluxTransformer2DModel.from_pretrained(folder / "transformer")
    net.proj_out.bias.data[:] = torch.nan
    net.save_pretrained(folder / "transformer")


def _another_process(folder: Path) -> None:
    edit_json(folder / "model_index.json", scheduler=["diffusers", "EDMEulerScheduler"])


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no index": (lambda folder: (folder / "model_index.json").unlink(), "is this a folder saved by diffusers"),
    "code": (_python_component, "its transformer is a 'MyTransformer' of 'mine', neither of diffusers nor"),
    "custom pipeline": (lambda folder: edit_json(folder / "model_index.json", _class_name=["my_pipe", "MyPipe"]),
                        "its pipeline 'MyPipe' is not one of diffusers"),
    "pickle": (_pickle, "its weights are diffusion_pytorch_model.bin, a pickle or the like, which is not read"),
    "cut weights": (_cut, "not a pipeline that can be loaded"),
    "NaN": (_not_a_number, "the network gives NaN or infinity at noise level 999"),
    "another process": (_another_process, "unknown scheduler 'EDMEulerScheduler'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_folders_that_cannot_be_used_are_one_line(flux: Path, tmp_path: Path, kind: str) -> None:
    change, message = BROKEN[kind]
    folder = Path(shutil.copytree(flux, tmp_path / "pipeline"))
    change(folder)
    run = learn(folder, tmp_path / "out", *SIZE)
    assert isinstance(run.exception, s4s.Error) and message in str(run.exception), run.exception
    assert "\n" not in str(run.exception) and not (tmp_path / "out").exists()


def test_places_that_cannot_be_used_are_one_line(flux: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("mine")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "learned.json").write_text("{}")
    for pipeline, out, message in (
        (tmp_path / "none", "out", "no such folder; give the one that pipe.save_pretrained wrote"),
        (flux / "model_index.json", "out", "a file; give the folder that pipe.save_pretrained wrote"),
        (flux, full, "holds other files, such as thesis.tex; give a folder of its own"),
        (flux, full / "thesis.tex", "a file; give a folder for what is learned"),
        (flux, damaged, "learned.json: damaged, or not of s4s learn; give another --out"),
    ):
        run = learn(pipeline, tmp_path / out, *SIZE)
        assert isinstance(run.exception, s4s.Error) and message in str(run.exception), run.exception
    assert (full / "thesis.tex").read_text() == "mine"


def test_held_out_prompts_are_none_of_the_others() -> None:
    prompts = Prompts([str(i) for i in range(10)], "x")
    assert prompts.held_out == 2
    assert prompts.rows(range(17)).tolist() == [*range(8), *range(8), 0]
    assert prompts.held_out_rows(range(3)).tolist() == [8, 9, 8]
    few = Prompts(["a", "b", "c"], "x")
    assert few.held_out_rows(range(4)).tolist() == few.rows(range(4)).tolist() == [0, 1, 2, 0]
    assert len({*captions.neutral()}) == 64


def test_pictures_of_images_videos_and_of_what_is_neither() -> None:
    images = torch.zeros(2, 3, 16, 24)
    assert len(pictures(images)) == 2 and all(each.startswith("data:image/png") for each in pictures(images))
    assert pictures(torch.zeros(1, 5, 3, 600, 400))[0].startswith("data:image/jpeg")
    assert pictures(torch.zeros(2, 2, 400)) == []


def test_a_scheduler_that_takes_two_evaluations_a_step() -> None:
    from tiny import TINY

    from s4s.models.own import Own

    case = TINY["SDXL"]()
    call = {key: value[:1] if isinstance(value, torch.Tensor) else value for key, value in case.call.items()}
    del call["output_type"]
    case.pipe.scheduler = diffusers.HeunDiscreteScheduler.from_config(case.pipe.scheduler.config)
    case.pipe.set_progress_bar_config(disable=True)
    case.pipe.unet = torch.compile(case.pipe.unet, backend="eager")  # which is neither true nor false
    own = Own(case.pipe, [], call, s4s.pipeline_denoiser(case.pipe, **call))
    steps = own.at(4)
    assert (own.name, steps.steps, steps.evaluations) == ("HeunDiscrete", 2, 3)
    assert len(steps.levels) == 2 and steps.levels[0] > steps.levels[1]
    levels = case.pipe.scheduler.sigmas.unique().flip(0)[:2]
    torch.testing.assert_close(torch.tensor(steps.levels), levels, rtol=1e-3, atol=0)
