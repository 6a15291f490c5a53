"""A config is checked before any work: one line naming the key, the value and the choices."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

import s4s
from s4s import cells as asked
from s4s import config
from s4s.classical import solvers
from s4s.grid import GRIDS

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "config").glob("*.yaml"))


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
    assert set(schema["$defs"]["solver"]["properties"]["name"]["enum"]) == set(solvers()) == set(config.OPTIONS)
    assert set(schema["$defs"]["schedule"]["enum"]) == set(GRIDS) | {"dmn", "gits"}
    for name, options in config.OPTIONS.items():
        known = solvers()[name]
        for key, choices in options.items():
            assert set(choices) <= set(known[key].get("choices", choices)), (name, key)


def test_every_cell_has_its_own_name_and_group() -> None:
    loaded = config.load(ROOT / "config" / "digits-full.yaml")
    cells = asked.cells(loaded)
    assert len({cell.name for cell in cells}) == len(cells)
    assert sum(map(len, asked.groups(loaded).values())) == len(cells)
    assert asked.cell(loaded, cells[5].name) == cells[5]


def test_shards_cover_every_sample_once() -> None:
    made = asked.shards({"sample": {"n": 1234, "shard_size": 500}})
    assert made == [(0, 500), (500, 1000), (1000, 1234)]


BAD: list[tuple[list[Any], Any, str]] = [
    (["nfe"], [0], "nfe.0: 0 is less than the minimum of 1"),
    (["nfe"], [], "nfe: [] should be non-empty"),
    (["nfe"], [4, 4], "nfe: [4, 4] has non-unique elements"),
    (["nfee"], [4], "unknown key 'nfee'; choose one of: benchmark, classical"),
    (["learned", "radios"], 1, "learned: unknown key 'radios'; choose one of: distance, methods"),
    (["learned", "radius"], -1, "learned.radius: -1 is less than the minimum of 0"),
    (["learned", "methods"], ["s5s"], "learned.methods.0: 's5s' is not possible; choose one of: ld3, s4s"),
    (["classical", "solvers", 0, "name"], "euler", "'euler' is not possible; choose one of: ddim, deis, dpmpp"),
    (["classical", "solvers", 1, "order"], 7, "classical.solvers.1.order: 7 is greater than the maximum of 4"),
    (["classical", "solvers", 1, "order"], 4, "dpmpp.order: 4 is not possible; choose one of: 1, 2, 3"),
    (["classical", "solvers", 0, "order"], 2, "ddim: unknown option 'order'; choose one of: none"),
    (["classical", "schedules"], ["cosine"], "classical.schedules.0: 'cosine' is not possible; choose one of: logsnr"),
    (["nfe"], [2], "nfe: 2 is too few for dpmpp3"),
    (["process", "sigma_min"], 100.0, "process.sigma_min: 100 must be below sigma_max, which is 80"),
    (["sample", "n"], "many", "sample.n: 'many' is not of type 'integer'"),
    (["benchmark"], "../up", "benchmark: '../up' does not match"),
    (["teacher"], None, "teacher: None is not of type 'object'"),
]


@pytest.mark.parametrize(("path", "value", "message"), BAD)
def test_bad_values_are_named(path: list[Any], value: Any, message: str) -> None:
    bad = copy.deepcopy(config.load(ROOT / "config" / "digits.yaml"))
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
    with pytest.raises(s4s.Error, match="the config: None is not of type 'object'"):
        config.load(tmp_path / "empty.yaml")
