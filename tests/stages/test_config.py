"""A config is checked before any work: one line naming the key, the value and the choices."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import s4s
from s4s.classical import solvers
from s4s.grid import GRIDS
from s4s.models import MODELS, diffusers_model, edm_model, ldm, stable_diffusion
from s4s.score.features import RESIZE_RULES
from s4s.score.protocol import DATA, PIXELS, PROTOCOLS, protocol
from s4s.stages import cells as asked
from s4s.stages import config, possible, scored, written
from s4s.stages.bench import FETCHING, Bench

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "config").glob("*.yaml"))
CONFIGS = [path for path in SHIPPED if "parts" not in written.read(path)]  # which lists others


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid(path: Path) -> None:
    loaded = config.load(path)
    assert loaded["benchmark"] == path.stem
    assert config.check(loaded) == loaded


def test_the_default_asks_for_what_the_readme_says() -> None:
    cells = asked.cells(config.load(ROOT / "config" / "digits.yaml"))
    count = {method: sum(cell.method == method for cell in cells) for method in {cell.method for cell in cells}}
    assert count == {"teacher": 1, "classical": 36, "ld3": 6, "s4s": 6, "s4s-alt": 6}


def test_the_schema_knows_what_the_registries_know() -> None:
    schema = yaml.safe_load(config.SCHEMA.read_text())
    assert set(schema["$defs"]["solver"]["properties"]["name"]["enum"]) == set(solvers()) == set(possible.OPTIONS)
    assert set(schema["$defs"]["schedule"]["enum"]) == set(GRIDS)
    for name, options in possible.OPTIONS.items():
        known = solvers()[name]
        for key, choices in options.items():
            assert set(choices) <= set(known[key].get("choices", choices)), (name, key)


def test_the_schema_knows_every_protocol_and_setting() -> None:
    schema = yaml.safe_load(config.SCHEMA.read_text())
    score = schema["properties"]["score"]["properties"]
    assert set(score["protocol"]["enum"]) == set(PROTOCOLS) == set(asked.PROTOCOLS)
    for name, (rule, data) in asked.PROTOCOLS.items():
        assert PROTOCOLS[name].uint8 == rule and set(DATA[name]) == set(data) <= set(score["data"]["enum"])
        kinds = {protocol(name, known).reference.kind for known in data}  # type: ignore[union-attr]
        assert (kinds == {"npz"}) == (name in scored.OF_STATISTICS)
    assert set(score["reference"]["properties"]["resize"]["properties"]["rule"]["enum"]) == set(RESIZE_RULES) - {"none"}
    assert set(schema["properties"]["sample"]["properties"]["uint8"]["enum"]) == set(PIXELS)
    assert set(schema["properties"]["model"]["properties"]["type"]["enum"]) == set(MODELS)
    ends = {"sigma_min", "sigma_max", "t_min", "t_max"}
    for kind, module in (("edm", edm_model), ("ldm", ldm), ("stable-diffusion", stable_diffusion),
                         ("diffusers", diffusers_model)):  # fmt: skip
        settings = set(schema["$defs"][kind]["properties"]) - {"type", *FETCHING}
        assert settings == set(module.DEFAULTS) - ends, kind


def test_a_teacher_for_each_student() -> None:
    loaded = config.load(ROOT / "config" / "mscoco.yaml")
    assert [cell.nfe for cell in asked.teachers(loaded)] == [5, 6, 7, 8, 9]
    assert asked.teacher_of(loaded, 8).name == "teacher_ipndm2_gits_nfe9"
    files = asked.teacher_files(loaded, asked.teacher_of(loaded, 4))
    assert next(iter(files)) == "teacher/nfe5/000000-000500.safetensors" and list(files.values())[-1] == (1500, 1912)
    digits = config.load(ROOT / "config" / "digits.yaml")
    assert asked.teacher_files(digits, asked.teachers(digits)[0]) == {"teacher/pairs.safetensors": (0, 1912)}


def test_every_cell_has_its_own_name_and_job() -> None:
    loaded = config.load(ROOT / "config" / "digits-full.yaml")
    cells = asked.cells(loaded)
    assert len({cell.name for cell in cells}) == len(cells)
    for per_nfe in (True, False):
        rules = asked.jobs(loaded, per_nfe=per_nfe)
        names = {
            pattern.format(kind=kind, nfe=cell.nfe)
            for patterns, kinds in rules.values()
            for kind in kinds
            for pattern in patterns
            for cell in cells
            if cell.kind == kind
        }
        assert names == {cell.name for cell in cells}
        assert list(rules) == ["teacher", "classical", "learned", "learned_joint_guided"]
        assert rules["learned"][1] == ["ld3", "s4s", "s4s-alt"]
        assert rules["learned_joint_guided"][1] == ["joint", "guided"], "they have starts of their own"
    assert asked.cell(loaded, cells[5].name) == cells[5]


def test_families_and_their_starts_make_cells_of_their_own() -> None:
    loaded = config.load(ROOT / "config" / "digits.yaml")
    single = {"solver": {"name": "dpmpp", "order": 2, "singlestep": True}, "schedule": "edm"}
    methods = ["s4s", {"name": "s4s", "family": "pc"}, {"name": "s4s-alt", "family": "ss", "starts": [single]}]
    loaded["learned"]["methods"] = [*methods, {"name": "joint", "order": 4}]
    cells = [cell for cell in asked.cells(config.check(loaded)) if cell.learned and cell.nfe == 4]
    names = ["s4s_ipndm3", "s4s_dpmpp3", "s4s-pc_ipndm3", "s4s-pc_dpmpp3", "s4s-alt-ss_dpmpp2-singlestep"]
    names += ["joint-4_ipndm3", "joint-4_dpmpp3"]
    assert [cell.name for cell in cells] == [f"{name}_edm_nfe4_seed0" for name in names]
    assert [cell.method for cell in cells] == ["s4s"] * 4 + ["s4s-alt"] + ["joint"] * 2
    rules = asked.jobs(loaded)
    assert rules["learned"] == (["{kind}_ipndm3_edm_nfe{nfe}_seed0", "{kind}_dpmpp3_edm_nfe{nfe}_seed0"],
                                ["s4s", "s4s-pc", "joint-4"])  # fmt: skip
    assert rules["learned_s4s_alt_ss"] == (["{kind}_dpmpp2-singlestep_edm_nfe{nfe}_seed0"], ["s4s-alt-ss"])


def test_the_published_grid_of_stable_diffusion_is_a_schedule() -> None:
    loaded = config.load(ROOT / "config" / "mscoco.yaml")
    loaded["classical"]["schedules"] = ["ays"]
    bench = Bench(config.check(loaded), Path("results"))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    bench.__dict__["process"] = process = s4s.VPDiscrete((1 - betas).cumprod(0), t_min=0.001)
    chosen = next(cell for cell in asked.cells(bench.config) if cell.schedule == "ays" and cell.nfe == 5)
    assert torch.equal(bench.textbook(chosen).sigma, s4s.grid("ays", process, 5, model="sd15"))


def test_shards_cover_every_sample_once() -> None:
    made = asked.shards({"sample": {"n": 1234, "shard_size": 500}})
    assert made == [(0, 500), (500, 1000), (1000, 1234)]


LEARNED = {"methods": ["s4s"], "starts": [{"solver": {"name": "ipndm", "order": 3}, "schedule": "edm"}]}
BAD: list[tuple[list[Any], Any, str]] = [
    (["benchmark"], "a" * 101, "' is too long (name of the results folder, results/<benchmark>: at most 100 small"),
    (["nfe"], [0], "nfe.0: 0 is less than the minimum of 1"),
    (["nfe"], [], "nfe: it is empty; give at least 1"),
    (["nfe"], [4, 4], "nfe: 4 stands twice; remove one"),
    (["nfee"], [4], "unknown key 'nfee'; choose one of: benchmark, classical"),
    (["learned", "radios"], 1, "learned: unknown key 'radios'; choose one of: calls, convert, distance, methods"),
    (["learned", "radius"], -1, "learned.radius: -1 is less than the minimum of 0"),
    (["learned"], LEARNED | {"moments": 1, "microbatch": 8}, "learned.moments: they are of whole batches; leave out"),
    (["learned", "methods"], ["S5S"], "learned.methods.0: unknown method 'S5S'; choose one of: bns, guided, joint"),
    (["learned", "methods"], [{"family": "pc"}], "learned.methods.0: 'name' is missing; add it"),
    (
        ["learned", "methods"],
        [{"name": "s4s", "family": "rk"}],
        "learned.methods.0.family: 'rk' is not possible; choose",
    ),
    (
        ["learned", "methods"],
        [{"name": "s4s", "stages": 2}],
        "unknown key 'stages'; choose one of: decoupled, distance, family",
    ),
    (
        ["learned", "methods"],
        [{"name": "ld3", "family": "pc"}],
        "learned.methods: method 'ld3' cannot learn family 'pc': its",
    ),
    (["learned", "methods"], [{"name": "bns", "order": 2}], "bns-2 from ipndm3: family full has no order"),
    (
        ["learned", "methods"],
        [{"name": "s4s", "order": 2}],
        "s4s-2 from ipndm3: order 2 is not possible at nfe 4; choose 3",
    ),
    (
        ["learned", "methods"],
        [{"name": "s4s", "family": "ss"}],
        "s4s-ss from ipndm3: a step of ss uses no output of earli",
    ),
    (["learned", "methods"], ["s4s", {"name": "s4s"}], "the config asks twice for cell 's4s_ipndm3_edm_nfe4_seed0'"),
    (
        ["learned", "starts", 0, "solver"],
        {"name": "heun"},
        "ld3 from heun: it has several evaluations a step; choose fam",
    ),
    (
        ["learned", "starts", 0, "solver"],
        {"name": "dpmpp", "order": 3, "singlestep": True},
        "nfe: 4 is no multiple of 3",
    ),
    (["classical", "solvers", 0, "name"], "euler", "'euler' is not possible; choose one of: ddim, deis, dpmpp"),
    (
        ["classical", "solvers", 1, "order"],
        7,
        "classical.solvers.1.order: 7 is not possible for dpmpp; choose one of: 1",
    ),
    (
        ["classical", "solvers", 1, "order"],
        4,
        "classical.solvers.1.order: 4 is not possible for dpmpp; choose one of: 1",
    ),
    (["classical", "solvers", 0, "order"], 2, "classical.solvers.0: ddim has no options; leave out 'order'"),
    (["classical", "schedules"], ["cosine"], "classical.schedules.0: 'cosine' is not possible; choose one of: logsnr"),
    (["nfe"], [2], "nfe: 2 is too few for dpmpp3"),
    (["classical", "schedules"], ["ays"], "schedule ays: its table is of Stable Diffusion 1.x, so it needs model.type"),
    (["process", "sigma_min"], 100.0, "process.sigma_min: 100 must be below sigma_max, which is 80"),
    (["sample", "n"], "many", "sample.n: 'many' is not possible; it takes a whole number (images a cell)"),
    (["benchmark"], "x\n", "is not possible (name of the results folder"),
    (["teacher", "nfe"], 2, "teacher.nfe: 2 is too few for dpmpp3"),
    (["benchmark"], "../up", "benchmark: '../up' is not possible (name of the results folder"),
    (["learned", "methods"], "s4s", "learned.methods: 's4s' is not possible; it takes a list: [s4s]"),
    (
        ["learned", "methods"],
        [3],
        "learned.methods.0: 3 is not possible; it takes text or a mapping (a name, such as s4s",
    ),
    (["learned", "methods"], ["s4s", "s4s"], "learned.methods: 's4s' stands twice; remove one"),
    (["learned", "methods"], ["teacher"], "learned.methods.0: unknown method 'teacher'; choose one of: bns, guided"),
    (["learned", "methods"], [{"nam": "s4s"}], "learned.methods.0: unknown key 'nam'; choose one of: decoupled, dist"),
    (["learned", "methods"], [{"name": "s4s", "race": True}], "race: True is not possible; false is all it may be"),
    (["learned", "methods"], [{"name": "s4s", "distance": {}}], "methods.0.distance: it is empty; give at least 1"),
    (
        ["learned", "methods"],
        [{"name": "s4s", "starts": [{"solver": "ddim", "schedule": "edm"}]}],
        "learned.methods.0.starts.0.solver: 'ddim' is not possible; it takes a mapping with name: {name: ddim}",
    ),
    (
        ["learned", "methods"],
        [{"name": "s4s", "starts": [{"solver": {"name": "ipndm", "order": 9}, "schedule": "edm"}]}],
        "learned.methods.0.starts.0.solver.order: 9 is not possible for ipndm; choose one of: 1, 2, 3, 4",
    ),
    (
        ["learned", "starts", 0],
        {"solver": {"name": "ddim"}},
        "'schedule' is missing; add it, one of: logsnr, edm, unif",
    ),
    (
        ["learned", "starts"],
        {"solver": {"name": "ddim"}, "schedule": "edm"},
        "solver and schedule: put a dash before it",
    ),
    (["learned", "starts"], "ipndm", "'ipndm' is not possible; it takes a list of mappings with solver and schedule ("),
    (["classical", "solvers"], "ddim", "it takes a list of mappings with name: [{name: ddim}]"),
    (
        ["classical", "solvers", 1],
        "ddim",
        "classical.solvers.1: 'ddim' is not possible; it takes a mapping with name: {",
    ),
    (
        ["classical", "solvers", 1, "ordr"],
        2,
        "classical.solvers.1: dpmpp has no option 'ordr'; choose one of: order, v",
    ),
    (
        ["classical", "solvers", 1, "variant"],
        "bh1",
        "variant: 'bh1' is not possible for dpmpp; choose one of: midpoint",
    ),
    (
        ["classical", "solvers", 1, "singlestep"],
        "yes",
        "singlestep: 'yes' is not possible for dpmpp; choose one of: tr",
    ),
    (["teacher", "solver"], {"name": "dpmpp", "prediction": "v"}, "teacher.solver.prediction: 'v' is not possible for"),
    (
        ["learned", "methods"],
        [{"name": "heun", "rounds": "x"}],
        "learned.methods.0.rounds: 'x' is not possible; it takes a whole number",
    ),
    (["nfe"], {"a": 4}, "nfe: {'a': 4} is not possible; it takes a list (network evaluations"),
    (["methods"], ["s4s-alt"], "methods.0: 's4s-alt' is built in, and here are files of your own; name it in learned."),
    (["methods"], ["Mine"], "methods.0: 'Mine' is not possible; give NAME of a file methods/NAME.py"),
    (["teacher"], None, "teacher: nothing is there; it takes a mapping with solver, schedule and nfe"),
]


PUBLISHED: list[tuple[str, list[Any], Any, str]] = [
    ("cifar10", ["model", "type"], "edmm", "model.type: 'edmm' is not possible; choose one of: digits, edm, ldm"),
    ("cifar10", ["model", "guidance"], 2.0, "model: unknown key 'guidance'; choose one of: batch, channels_last"),
    ("cifar10", ["model", "weights"], {"url": "ftp://x/y"}, "model.weights.url: 'ftp://x/y' is not possible (where it"),
    ("cifar10", ["model", "weights"], {}, "model.weights: needs either 'url' or 'path'"),
    ("cifar10", ["model", "weights", "sha256"], "4d5d", "model.weights.sha256: '4d5d' is not possible (SHA-256"),
    ("cifar10", ["model", "dtype"], "float64", "model.dtype: 'float64' is not possible; choose one of: float32"),
    ("cifar10", ["process", "t_min"], 0.1, "process: unknown key 't_min'; choose one of: sigma_max, sigma_min"),
    ("cifar10", ["score"], {"protocol": "edm"}, "score: needs 'data', one of cifar10, ffhq, afhqv2, or a 'reference'"),
    ("cifar10", ["score", "data"], "mscoco", "score.data: protocol 'edm' has no reference for 'mscoco'; choose one"),
    ("cifar10", ["score", "metrics"], ["fid", "kid"], "score.metrics: kid and precision-recall compare with images"),
    ("cifar10", ["score", "metrics"], ["kid"], "score.metrics: fid must be among them"),
    ("cifar10", ["score", "bootstrap"], 1, "score.bootstrap: 1 is not possible (replicates of the"),
    ("cifar10", ["score", "protocol"], "digits", "score.data: protocol 'digits' has no reference for 'cifar10'"),
    ("cifar10", ["learned", "distance"], "feature", "learned.distance: feature uses a network that only model type"),
    ("cifar10", ["learned", "distance"], {"l3": 1.0}, "learned.distance: unknown key 'l3'; choose one of: feature, l1"),
    ("cifar10", ["teacher", "nfe"], "more", "teacher.nfe: 'more' is not possible; choose one of: student+1"),
    ("cifar10", ["device"], "tpu", "device: 'tpu' is not possible; choose one of: auto, cpu, cuda"),
    ("imagenet256", ["model", "kind"], "custom", "model.kind: 'custom', and no other kind, needs 'sizes'"),
    ("imagenet256", ["process"], {"t_min": 0.5, "t_max": 0.2}, "process.t_min: 0.5 must be below t_max, which is 0.2"),
    ("imagenet256", ["process", "sigma_min"], 0.1, "process: unknown key 'sigma_min'; choose one of: t_max, t_min"),
    ("mscoco", ["model", "type"], "diffusers", "model: unknown key 'n_prompts'; choose one of: batch, channels_last"),
    ("mscoco", ["model"], {"type": "diffusers"}, "model: a diffusers model needs either 'path', a local folder, or"),
]


@pytest.mark.parametrize(("name", "path", "value", "message"), PUBLISHED)
def test_bad_values_of_published_models_are_named(name: str, path: list[Any], value: Any, message: str) -> None:
    refused(config.load(ROOT / "config" / f"{name}.yaml"), path, value, message)


@pytest.mark.parametrize(("path", "value", "message"), BAD)
def test_bad_values_are_named(path: list[Any], value: Any, message: str) -> None:
    refused(config.load(ROOT / "config" / "digits.yaml"), path, value, message)


def refused(loaded: dict[str, Any], path: list[Any], value: Any, message: str) -> None:
    """The config with one value changed is refused, in one line."""
    bad = copy.deepcopy(loaded)
    target: Any = bad
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(s4s.Error) as caught:
        config.check(bad)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(s4s.Error, match="cannot read the config"):
        config.load(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1,\n")
    with pytest.raises(s4s.Error, match="not YAML") as caught:
        config.load(tmp_path / "broken.yaml")
    assert "\n" not in str(caught.value)
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(s4s.Error, match="the config: nothing is there; it takes a mapping with benchmark, model"):
        config.load(tmp_path / "empty.yaml")
