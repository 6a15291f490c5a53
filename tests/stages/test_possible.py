"""Settings do what they say, or the config is refused: what a schema cannot tell."""

from __future__ import annotations

import copy
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from s4s import search
from s4s.errors import Error
from s4s.models import ldm
from s4s.models.model import classes
from s4s.models.scheduler import betas
from s4s.score import known, metrics
from s4s.stages import bench, possible, scored, written
from s4s.stages import cells as asked
from s4s.stages.config import check, digest, load
from s4s.stages.kinds import is_list

ROOT = Path(__file__).parents[2]
DDIM = {"solver": {"name": "ddim"}, "schedule": "edm"}
FOLDER = {"protocol": "edm", "reference": {"kind": "folder", "where": "real"}}
DIGITS = {"protocol": "digits", "data": "digits"}


def refused(name: str, changes: dict[str, Any], message: str) -> None:
    """A shipped config with some values changed (None removes one) is refused, in one line."""
    made = copy.deepcopy(load(ROOT / "config" / f"{name}.yaml"))
    for place, value in changes.items():
        *path, last = place.split(".")
        target = made
        for key in path:
            target = target[key]
        target[last] = value
        if value is None:
            del target[last]
    with pytest.raises(Error) as caught:
        check(made)
    assert message in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


NO_EFFECT: list[tuple[str, dict[str, Any], str]] = [
    # classes and guidance that the network cannot have
    ("lsun_bedroom", {"model.guidance": 2.0}, "model.guidance: it needs a class-conditional model, and lsun_bedroom h"),
    ("lsun_bedroom", {"model.guidance": 1}, "model.guidance: it needs a class-conditional model"),
    ("lsun_bedroom", {"model.classes": "random"}, "model.classes: it needs a class-conditional model"),
    ("imagenet256", {"model.kind": "custom", "model.sizes": {"size": 32}}, "model.guidance: it needs a class-conditio"),
    ("imagenet256", {"model.class_seed": 3}, "model.class_seed: it has no effect unless 'classes' is random"),
    ("cifar10", {"model.class_seed": 0}, "model.class_seed: it has no effect unless 'classes' is random"),
    # two places for one thing
    ("mscoco", {"model.path": "sd"}, "model.id: it has no effect beside 'path'"),
    ("mscoco", {"model.path": "sd", "model.id": None}, "model.revision: it has no effect beside 'path'"),
    # noises of the teacher, or of the search for a grid
    ("digits", {"sample.seed": 100}, "sample.seed: 100 is teacher.seed too"),
    ("digits", {"teacher.seed": 200}, "sample.seed: 200 is teacher.seed too"),
    ("cifar10", {"sample.seed": 0}, "sample.seed: 0 is the seed of the noises that gits searches its grid on"),
    # times that the table does not have
    ("mscoco", {"process.t_min": 0.0001}, "process.t_min: 0.0001 is below what the model has, 1000 times"),
    ("imagenet256", {"process": {"t_max": 0.0005}}, "process.t_max: 0.0005 is below what the model has"),
    ("digits", {"learned.distance": {"l2": 0, "l1": 0.0}}, "learned.distance: all weights are 0"),
    # distances of an entry's own
    ("digits", {"learned.methods": [{"name": "s4s", "distance": {"l2": 0}}]}, "methods.0.distance: all weights are 0"),
    ("digits", {"learned.methods": ["s4s", {"name": "s4s", "distance": "lpips"}]},
     "learned.methods.1.distance: lpips compares images of 3 channels; use l2"),
    ("cifar10", {"learned.methods": [{"name": "s4s", "distance": {"l2": 1, "feature": 1}}]},
     "learned.methods.0.distance: feature uses a network that only model type digits trains"),
    # other settings of an entry's own
    ("digits", {"learned.methods": [{"name": "s4s", "moments": 1.0}], "learned.microbatch": 8},
     "learned.methods s4s.moments: they are of whole batches; leave out learned.microbatch"),
    ("digits", {"learned.methods": [{"name": "s4s", "teacher_nfe": 1}]}, "teacher_nfe: 1 is too few for dpmpp"),
    ("digits", {"learned.methods": ["s4s", {"name": "s4s", "radius": 0.2}], "learned.radius": 0.1},
     "s4s.radius: results of other methods would not say their radius, 0.1; write learned.radius as a list, [0.1]"),
    # methods and what they start from
    ("digits", {"learned.starts": []}, "learned.starts: method ld3 has nothing to start from"),
    ("digits", {"learned.methods": ["s4s", {"name": "joint", "starts": []}]}, "method joint has nothing to start from"),
    ("digits", {"learned.methods": [{"name": "s4s"}], "learned.starts": []}, "method s4s has nothing to start from"),
    ("digits", {"learned.convert": "grid", "learned.methods": ["s4s"]}, "learned.convert: it has no effect, since no"),
    ("digits", {"learned.convert": "grid", "learned.methods": []}, "learned.convert: it has no effect, since no"),
    ("digits", {"learned.methods": [{"name": "s4s", "race": False}]}, "methods s4s.race: it begins at its start alone"),
    ("digits", {"learned.methods": ["s4s", {"name": "s4s", "family": "lms", "order": 3}]},
     "s4s-lms3_ipndm3_edm_nfe4_seed0 and s4s_ipndm3_edm_nfe4_seed0 are the same, in other words; remove one entry"),
    # options of solvers
    ("digits", {"classical.solvers": [{"name": "dpmpp", "order": 3, "variant": "taylor"}]}, "taylor exists at order 2"),
    ("digits", {"teacher.solver": {"name": "dpmpp", "variant": "taylor"}}, "taylor exists at order 2 only, not at ord"),
    ("digits", {"classical.solvers": [{"name": "dpmpp", "order": 2, "singlestep": True, "lower_order_final": True}]},
     "classical.solvers.0.lower_order_final: it means nothing with singlestep"),
    ("cifar10", {"teacher.nfe": 61, "teacher.schedule": "gits"}, "schedule gits: it chooses from 60 steps, too few fo"),
    # references and metrics
    ("digits", {"score": DIGITS | {"metrics": ["fid", "precision-recall"]}, "sample.n": 3},
     "sample.n: precision-recall needs at least 4 samples, got 3"),
    ("cifar10", {"score": FOLDER | {"metrics": ["fid", "precision-recall"],
                                    "reference": {"kind": "folder", "where": "real", "count": 3}}},
     "score.reference.count: precision-recall needs at least 4 samples, got 3"),
    ("cifar10", {"score.reference": {"kind": "npz", "where": "x.npz", "resize": {"rule": "adm", "size": 32}}},
     "score.reference.resize: it has no effect on kind npz, only on folder"),
    ("cifar10", {"score.reference": {"kind": "folder", "where": "real", "sha256": "0" * 64}},
     "score.reference.sha256: it has no effect on kind folder, only on npz"),
    ("digits-class", {"model.classes": "random", "sample.n": 40},
     "sample.n: a FID within a class needs 2 samples, and of 40 class"),
    # images and what looks at them
    ("cifar10", {"sample.uint8": "none"}, "sample.uint8: the extractor of edm needs edm, ldm or diffusers"),
    ("imagenet256", {"sample.uint8": "ldm"}, "sample.uint8: the extractor of ld3-latent needs none: it takes floats"),
    ("imagenet256", {"score.extractor": {"name": "vgg16", "layer": "fc2_relu", "weights": "v.pth"}},
     "sample.uint8: the extractor of vgg16 needs edm, ldm or diffusers"),
    ("digits", {"score": {"protocol": "edm", "data": "cifar10"}}, "score: the digits have 1 channel and the extractor"),
    ("digits", {"score": DIGITS | {"extractor": {"name": "vgg16", "layer": "fc2_relu", "weights": "v.pth"}}},
     "score: the digits have 1 channel and the extractor of vgg16 takes 3"),
    ("digits", {"score": {"protocol": "digits", "reference": {"kind": "folder", "where": "real"}}},
     "score.reference: images of a folder have 3 channels"),
    ("digits", {"score": {"protocol": "digits", "reference": {"kind": "dataset", "where": "cifar10-train"}}},
     "score.reference.where: the extractor of the digits takes no images of 'cifar10-train'"),
    ("digits", {"learned.distance": "lpips"}, "learned.distance: lpips compares images of 3 channels; use l2"),
    ("digits", {"learned.distance": {"feature": 1, "lpips": 1}}, "learned.distance: lpips compares images of 3 channe"),
    ("mscoco", {"learned.distance": "lpips"}, "lpips compares images of 3 channels; use l2, or set learned.space to i"),
    # seeds that no generator takes
    ("digits", {"sample.seed": 2**64}, "sample.seed: 18446744073709551616 is greater than the maximum"),
    ("digits", {"learned.seeds": [2**40]}, "learned.seeds.0: 1099511627776 is greater than the maximum"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "message"), NO_EFFECT, ids=[message[:40] for _, _, message in NO_EFFECT])
def test_what_cannot_be_or_does_nothing_is_refused(name: str, changes: dict[str, Any], message: str) -> None:
    refused(name, changes, message)


def test_classes_are_counted_as_they_are_drawn() -> None:
    """What is refused is what would have no score in the end, and nothing else."""
    config, labels = load(ROOT / "config" / "digits-class.yaml"), torch.arange(1797) % 10
    real, refusals = torch.randn(len(labels), 4), 0
    for n, seed in product((20, 40, 60), range(12)):
        made = {
            "model": config["model"] | {"classes": "random", "class_seed": seed},
            "sample": config["sample"] | {"n": n},
        }
        drawn = classes("random", range(10), seed)(range(n))
        assert drawn is not None
        try:
            check(config | made)
            metrics.within_classes(torch.randn(n, 4), drawn, real, labels, drawn)
            assert len(drawn.unique()) == 10
        except Error as error:
            assert str(error).startswith("sample.n: a FID within a class") and drawn.bincount(minlength=10).min() < 2
            refusals += 1
    assert 0 < refusals < 36


def test_the_same_settings_where_they_do_something() -> None:
    digits, cifar10, imagenet, mscoco = (
        load(ROOT / "config" / f"{name}.yaml") for name in ("digits", "cifar10", "imagenet256", "mscoco")
    )
    check(imagenet | {"model": imagenet["model"] | {"classes": "random", "class_seed": 3}})
    check(digits | {"learned": digits["learned"] | {"methods": [], "starts": []}})
    check(digits | {"learned": digits["learned"] | {"methods": [{"name": "s4s", "starts": [DDIM]}], "starts": []}})
    check(digits | {"learned": digits["learned"] | {"methods": ["s4s-alt"], "convert": "grid"}})
    check(digits | {"sample": digits["sample"] | {"seed": 0}})
    for radius in (0.0, [0.1]):
        own = {"methods": ["s4s", {"name": "s4s", "radius": 0.2}], "radius": radius}
        check(digits | {"learned": digits["learned"] | own})
    check(mscoco | {"learned": mscoco["learned"] | {"distance": "lpips", "space": "images"}})
    check(cifar10 | {"score": FOLDER | {"metrics": ["fid", "kid", "precision-recall"]}, "sample": {"n": 4}})
    resized = {"kind": "folder", "where": "real", "resize": {"rule": "adm", "size": 32}}
    check(cifar10 | {"score": {"protocol": "edm", "reference": resized}})


SOLVERS: list[dict[str, Any]] = [
    {"name": name, **options}
    for name, all_options in possible.OPTIONS.items()
    for options in [
        {},
        *({key: value} for key, values in all_options.items() for value in values),
        *({"order": 2, key: value} for key, values in all_options.items() if key != "order" for value in values),
        *({"order": 2, key: value, "prediction": "eps"} for key in set(all_options) - {"order", "prediction"}
          for value in all_options[key] if "prediction" in all_options),
    ]
]  # fmt: skip


def test_no_two_solvers_share_a_name() -> None:
    """Every option of every solver, alone and beside others: as many names as solvers."""
    names: dict[str, dict[str, Any]] = {}
    for spec in SOLVERS:
        cell = asked.Cell("classical", spec["name"], {k: v for k, v in spec.items() if k != "name"}, "edm", 4)
        assert names.setdefault(cell.name, spec) == spec, cell.name
    assert len(names) == len(SOLVERS) > 60
    assert "classical_dpmpp2-singlestep_edm_nfe4" in names and "classical_unipc-bh1_edm_nfe4" in names


def test_options_have_one_name_in_any_order() -> None:
    one = {"order": 2, "variant": "bh1", "prediction": "eps"}
    names = {asked.Cell("classical", "unipc", options, "edm", 4).name
             for options in (one, dict(reversed(list(one.items()))))}  # fmt: skip
    assert names == {"classical_unipc2-eps-bh1_edm_nfe4"}


def test_radii_that_differ_little_have_names_of_their_own() -> None:
    radii = [0.1, 0.1000001, 0.10000012, 1e-9, 2]
    names = [asked.Cell("s4s", "ddim", {}, "edm", 4, 0, radius=radius).name for radius in radii]
    assert len(set(names)) == len(radii) and names[0] == "s4s_ddim_edm_nfe4_r0.1_seed0"


def test_two_solvers_of_one_family_in_one_config() -> None:
    config = load(ROOT / "config" / "digits.yaml")
    two = [
        {"name": "dpmpp", "order": 2, "singlestep": False},
        {"name": "dpmpp", "order": 2, "lower_order_final": False},
    ]
    made = check(config | {"classical": {"solvers": two, "schedules": ["edm"]}})
    cells = [cell for cell in asked.cells(made) if cell.method == "classical" and cell.nfe == 4]
    assert [cell.start for cell in cells] == ["dpmpp2-singlestep-false", "dpmpp2-lower_order_final-false"]


def test_shipped_cells_keep_their_names() -> None:
    """Files of results are found by name: those of the shipped configs are as they were in the first release."""
    names = {path.stem: digest([cell.name for cell in asked.cells(load(path))])[:12]
             for path in sorted((ROOT / "config").glob("*.yaml")) if not is_list(written.read(path))}  # fmt: skip
    assert (
        names["cifar10"] == "3bc30b9aadf3"
        and names["digits-full"] == "2510ca7ef04d"
        and names["mscoco"] == "c605d10359de"
    )


def test_the_rules_are_those_of_what_they_speak_of() -> None:
    """Names, counts and seeds that are written down here because Snakemake must not wait for torch."""
    for name in [name for name in FEATURE_EXTRACTORS_REGISTRY if not name.startswith("dummy")]:
        assert name.startswith(known.OF_RGB) == (known.channels_of(name) == 3), name
    assert len(search.step_levels(search.gits_teacher(bench.EDM()))) - 1 == possible.GITS_STEPS
    k = metrics.precision_recall.__kwdefaults__ or {"k": metrics.precision_recall.__defaults__[-1]}  # type: ignore[index]
    assert scored.LEAST["precision-recall"] == k["k"] + 1
    assert bench.GITS_SEED == possible.GITS_SEED
    assert len(betas(ldm.SCHEDULE)) == possible.STEPS
