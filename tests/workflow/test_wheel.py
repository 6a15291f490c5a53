"""The wheel: what is in it, and what works where nothing but its dependencies is installed."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from flit_core import buildapi
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import s4s

ROOT = Path(__file__).resolve().parents[2]
BARE = """
import importlib, pkgutil, re, sys
sys.path[:0] = {path!r}
import s4s

net = lambda x, time: x / (1 + time[:, None, None, None] ** 2) ** 0.5
exec({readme!r})
assert x0.shape == (16, 1, 3, 3) and x0.isfinite().all(), x0

def missing(call):
    try:
        call()
    except s4s.Error as error:
        found = re.fullmatch(r"[\\w.]+ is not installed; pip install 's4s\\[(\\w+)\\]'", str(error))
        return found[1] if found else "unclear: " + str(error)
    return ""

for found in pkgutil.walk_packages(s4s.__path__, "s4s.", onerror=lambda name: None):
    if found.name not in ("s4s.__main__", "s4s.integrations.comfyui.nodes"):  # the second runs inside its host
        print(found.name, missing(lambda: importlib.import_module(found.name)), sep=":")
from s4s.models import digits, ldm
from s4s.score import features
from s4s.stages import config
for name in s4s.__all__:
    print(name, missing(lambda: getattr(s4s, name)), sep=":")
print("a folder", missing(lambda: s4s.load_model({{"type": "diffusers", "path": "my-model"}})), sep=":")
print("a text folder", missing(lambda: s4s.load_model({{"type": "stable-diffusion", "path": "my-model"}})), sep=":")
print("ldm", missing(lambda: ldm.networks(ldm.LDMConfig())), sep=":")
print("digits", missing(digits.digits), sep=":")
print("opened", missing(lambda: features.opened("x.png")), sep=":")
print("fid", missing(lambda: features.extractor("vgg16")), sep=":")
print("check", missing(lambda: config.check({{}})), sep=":")
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the wheel, what is in it, and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        wheel = folder / buildapi.build_wheel(str(folder))
        buildapi.build_sdist(str(folder))
    zipfile.ZipFile(wheel).extractall(folder / "wheel")
    return folder


@pytest.fixture(scope="module")
def alone(built: Path) -> list[str]:
    """Folders with the wheel, its dependencies, theirs, and nothing else: links, so that nothing is downloaded."""
    (built / "site").mkdir()
    waiting, seen = ["s4s"], set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        found = distribution(name)
        for top in {(found.locate_file(""), file.parts[0]) for file in found.files or []}:
            link = built / "site" / top[1]
            if name != "s4s" and top[1] not in ("..", "__pycache__") and not link.exists():
                link.symlink_to(Path(str(top[0])) / top[1])
        requires = built.glob("wheel/*.dist-info/METADATA") if name == "s4s" else []
        texts = [text for path in requires for text in re.findall(r"^Requires-Dist: (.*)$", path.read_text(), re.M)]
        for asked in map(Requirement, texts or ([] if name == "s4s" else found.requires or [])):
            if asked.marker is None or asked.marker.evaluate({"extra": ""}):
                waiting += {canonicalize_name(asked.name)} - seen
    return [str(built / "wheel"), str(built / "site")]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """This interpreter without its own packages, environment and current folder."""
    return subprocess.run([sys.executable, "-I", "-S", *arguments], cwd=cwd, capture_output=True, text=True)


def test_wheel_and_sdist_hold_the_package_and_no_more(built: Path) -> None:
    listing = subprocess.run(["git", "ls-files", "s4s"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    inside = {str(path.relative_to(built / "wheel")) for path in built.glob("wheel/**/*") if path.is_file()}
    tracked = {name for name in listing.stdout.splitlines() if (ROOT / name).exists()}
    assert tracked <= inside
    assert {name.split("/")[0] for name in inside} == {"s4s", "s4s-0.1.0.dist-info"}
    assert {"s4s/py.typed", "s4s-0.1.0.dist-info/licenses/LICENSE"} <= inside
    assert sum(path.stat().st_size for path in built.glob("s4s-*.*")) < 3e6


def test_readme_works_from_the_wheel_alone(built: Path, alone: list[str], tmp_path: Path) -> None:
    """README's first block runs; every module loads or names its extra; so do the functions that need one."""
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert block
    readme = block[1].replace("n=1400", "n=24").replace("(3, 32, 32)", "(1, 3, 3)").replace("nfe=40", "nfe=8")
    done = run("-c", BARE.format(path=alone, readme=readme), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    lacking = dict(line.split(":") for line in done.stdout.splitlines() if not line.endswith(":"))
    assert {**lacking}.items() >= {
        "s4s.report": "benchmark", "s4s.stages.written": "benchmark", "opened": "benchmark", "fid": "benchmark",
        "s4s.cli.watch": "workflow", "s4s.integrations.diffusers": "diffusers",
        "a folder": "diffusers", "a text folder": "diffusers", "ldm": "diffusers", "digits": "benchmark",
        "check": "benchmark",
    }.items()  # fmt: skip
    wings = {name.split(".")[1] for name in lacking if name.startswith("s4s.")}
    assert wings <= {"report", "stages", "cli", "integrations", "models"}, "a floor below now needs an extra"
    assert not {*s4s.__all__} & {*lacking}, "public names are there to look at; their calls may need an extra"
    assert set(lacking.values()) == {"benchmark", "workflow", "diffusers"}


COMMANDS = {
    "show solver.json": (0, "ddim"),
    "run": (1, "s4s: snakemake is not installed; pip install 's4s[workflow]'"),
    "table config.yaml": (1, "s4s: yaml is not installed; pip install 's4s[benchmark]'"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_from_the_wheel_alone(command: str, alone: list[str], tmp_path: Path) -> None:
    code = f"import sys; sys.path[:0] = {alone!r}; sys.argv = {['s4s', *command.split()]!r}\n"
    if command.startswith("show"):
        code += "import s4s; s4s.solver('ddim', [3.0, 1.0, 0.5]).save('solver.json')\n"
    done = run("-c", code + "from s4s.cli.main import main; main()", cwd=tmp_path)
    status, said = COMMANDS[command]
    assert done.returncode == status and said in done.stdout + done.stderr, done.stderr[-500:]
