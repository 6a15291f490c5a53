"""Classes and guidance of a model: what a network cannot have is refused when it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pipelines import autoencoder, ddim, ddpm_folder, diffusers, transformer, unet

from s4s.errors import Error
from s4s.models import load_model
from s4s.models.model import classes


@pytest.mark.parametrize(
    "settings",
    [{"guidance": 3.0, "null_class": 0}, {"guidance": 3.0}, {"guidance": 1.0}, {"guidance": 0.0}, {"null_class": 0},
     {"classes": "random"}, {"classes": "uniform"}, {"class_seed": 0}],
)  # fmt: skip
def test_settings_of_classes_need_classes(tmp_path: Path, settings: dict[str, Any]) -> None:
    path = ddpm_folder(tmp_path, unet(), ddim())
    key = next(iter(settings))
    with pytest.raises(Error, match=f"{key} = .* needs a class-conditional model; this one has no classes"):
        load_model({"type": "diffusers"} | settings, path)
    assert load_model({"type": "diffusers", "guidance": None}, path).facts["guidance"] is None


@pytest.mark.parametrize(
    ("classes", "settings", "message"),
    [
        (10, {"guidance": 3.0, "null_class": 10}, "null_class = 10: the classes are 0 to 9"),
        (10, {"null_class": 99}, "null_class = 99: the classes are 0 to 9"),
        (10, {"null_class": -1}, "null_class = -1 must be a whole number of at least 0"),
        (10, {"null_class": "9"}, "null_class = '9' must be a whole number"),
        (10, {"null_class": True}, "null_class = True must be a whole number"),
        (10, {"null_class": 9, "guidance": float("nan")}, "guidance must be a finite number"),
        (10, {"null_class": 9, "guidance": "strong"}, "guidance must be a finite number"),
        (10, {"class_seed": 4}, "class_seed = 4 has no effect unless classes is random"),
        (10, {"class_seed": 4, "classes": "uniform"}, "class_seed = 4 has no effect unless classes is random"),
        (1, {"guidance": 3.0, "null_class": 0}, "null_class = 0: it is the network's only class"),
        (1, {"null_class": 0}, "null_class = 0: it is the network's only class"),
        (2, {"guidance": 3.0}, "guidance needs a class-conditional model and 'null_class'"),
    ],
)
def test_a_null_class_is_one_of_several(tmp_path: Path, classes: int, settings: dict[str, Any], message: str) -> None:
    path = ddpm_folder(tmp_path, unet(num_class_embeds=classes), ddim())
    with pytest.raises(Error, match=message):
        load_model({"type": "diffusers"} | settings, path)


def test_classes_of_every_seed_are_drawn_anew() -> None:
    drawn = [classes("random", range(1000), seed)(range(4)) for seed in (7, 2**63, 2**63 + 5)]
    assert drawn[0].tolist() == [814, 496, 301, 424] and not torch.equal(drawn[1], drawn[2])


def test_every_class_that_is_left_is_sampled(tmp_path: Path) -> None:
    path = ddpm_folder(tmp_path, unet(num_class_embeds=3), ddim())
    for settings, expected in (
        ({}, [0, 1, 2]),
        ({"null_class": 1}, [0, 2]),
        ({"null_class": 2, "guidance": 2}, [0, 1]),
    ):
        labels = load_model({"type": "diffusers"} | settings, path).condition(range(len(expected)))
        assert labels is not None and labels.tolist() == expected


def test_a_transformer_has_its_null_class_after_the_others(tmp_path: Path) -> None:
    pipeline = diffusers.DiTPipeline(transformer(), autoencoder(), ddim())
    pipeline.save_pretrained(tmp_path)
    for given in ({}, {"null_class": 6}):
        model = load_model({"type": "diffusers", "guidance": 4.0} | given, tmp_path)
        assert model.facts["classes"]["count"] == 6
    for wrong in (0, 5, 7):
        with pytest.raises(Error, match=f"null_class = {wrong}: for this network it is 6"):
            load_model({"type": "diffusers", "guidance": 4.0, "null_class": wrong}, tmp_path)
