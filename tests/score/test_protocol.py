"""Named protocols: records, labels, class plans, pixel rules, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import one_line

import s4s
from s4s.files import sha256
from s4s.models import weights
from s4s.models.digits import Classifier, digits
from s4s.score import features, protocol
from s4s.score.features import Resize
from s4s.score.metrics import Moments, frechet
from s4s.score.protocol import DATA, PIXELS, PROTOCOLS
from s4s.score.reference import Source, statistics


def test_every_protocol_describes_itself_as_json() -> None:
    assert {"edm", "adm", "torch-fidelity", "ld3-latent", "digits"} == PROTOCOLS.keys() == DATA.keys()
    for name, rows in DATA.items():
        for data in (None, *rows):
            record = json.loads(json.dumps(protocol.protocol(name, data).describe(count=5000), allow_nan=False))
            assert record["protocol"] == name and record["changed"] == [] and record["fid_label"] == "FID@5000"
            assert record["uint8_formula"] == PIXELS[record["uint8"]]
            assert data is None or record["reference"]["where"]
    keys = (
        "uint8 resize extractor layer weights weights_sha256 reference reference_statistics samples classes seed first"
    )
    assert set(keys.split()) <= record.keys()


def test_sample_counts_and_labels() -> None:
    edm, coco = protocol.protocol("edm", "cifar10"), protocol.protocol("ld3-latent", "mscoco")
    assert (edm.label(50_000), edm.label(49_999)) == ("FID", "FID@49999")
    assert (coco.label(30_000), coco.label(5000)) == ("FID", "FID@5000")
    assert edm.indices == range(50_000)
    assert protocol.protocol("edm", "cifar10", first=50_000).indices == range(50_000, 100_000)


def test_changes_are_on_record() -> None:
    assert protocol.protocol("edm", "cifar10", seed=1, first=5, uint8="edm").changed == ()
    assert protocol.protocol("edm", reference=Source("folder", "real")).changed == ()
    changed = protocol.protocol("edm", "cifar10", uint8="ldm", reference=Source("folder", "real"))
    assert changed.changed == ("reference", "uint8") and changed.describe()["changed"] == ["reference", "uint8"]


def test_class_plans() -> None:
    plan = protocol.protocol("ld3-latent", "imagenet256")
    uniform = plan.labels(plan.indices, 1000)
    assert plan.classes == "uniform" and uniform is not None and set(uniform.bincount().tolist()) == {50}
    random = protocol.protocol("adm", "imagenet256", seed=3)
    assert random.classes == "random" and random.changed == ()
    whole, part = random.labels(range(2000), 10), random.labels(range(700, 900), 10)
    assert whole is not None and part is not None and torch.equal(whole[700:900], part)
    assert whole.bincount(minlength=10).min() > 140 and whole.max() == 9
    fixed = random.labels(range(4), 1000)
    assert fixed is not None and fixed.tolist() == [947, 373, 139, 366]
    drawn = [protocol.protocol("adm", "imagenet256", seed=seed).labels(range(9), 1000) for seed in (2**63, 2**63 + 5)]
    assert drawn[0] is not None and drawn[1] is not None and not torch.equal(*drawn)
    assert protocol.protocol("edm", "cifar10").labels(range(5), 10) is None


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        (("fid",), {}, "unknown protocol 'fid'; choose one of: adm, digits, edm, ld3-latent, torch-fidelity"),
        (("edm", "lsun"), {}, "unknown data set of protocol 'edm' 'lsun'; choose one of: afhqv2, cifar10, ffhq"),
        (("edm",), {"uint8": "round"}, "unknown uint8 rule 'round'; choose one of: diffusers, edm, ldm, none"),
        (("edm",), {"classes": "all"}, "unknown class plan 'all'; choose one of: none, random, uniform"),
        (("edm",), {"changed": ()}, "unknown field of a protocol 'changed'; choose one of: about, classes"),
        (("edm",), {"n": 5}, "unknown field of a protocol 'n'"),
        (("edm",), {"samples": 1}, "at least 2 samples"),
        (("ld3-latent",), {"resize": Resize("adm", 8)}, "floats are not resized"),
    ],
)
def test_protocol_refusals(arguments: tuple[str, ...], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(s4s.Error) as caught:
        protocol.protocol(*arguments, **changes)
    assert message in one_line(caught)


def test_pixel_rules() -> None:
    x = torch.linspace(-1.1, 1.1, 3 * 64).reshape(1, 3, 8, 8)
    assert PIXELS.keys() == {*features.UINT8_RULES, "none"}
    assert torch.equal(protocol.protocol("adm").images(x), features.to_uint8(x, "ldm"))
    floats = protocol.protocol("ld3-latent").images(x.double())
    assert floats.dtype == torch.float32 and floats.min() == 0 and floats.max() == 1
    assert torch.allclose(floats[0, 1], x[0, 1] / 2 + 0.5)
    small = protocol.protocol("edm", resize=Resize("adm", 4))
    assert small.images(x).shape == (1, 3, 4, 4) and small.changed == ("resize",)


def test_digits_protocol_is_what_the_pipeline_does(tmp_path: Path) -> None:
    weights.save(Classifier(), tmp_path / "features.safetensors")
    chosen = protocol.protocol("digits")
    extract = chosen.build(tmp_path / "features.safetensors")
    assert chosen.reference is not None
    found = statistics(chosen.reference, extract)
    plain = Moments.of(extract(features.to_uint8(digits()[0], "edm")))
    assert found.count == 1797 and torch.allclose(found.covariance, plain.covariance, rtol=1e-10)
    assert frechet(found, plain) == pytest.approx(0, abs=1e-10)
    record = chosen.describe(extract, found, 5000)
    assert record["weights_sha256"] == sha256(tmp_path / "features.safetensors") and record["fid_label"] == "FID@5000"
    assert len(record["reference_statistics"]["sha256"]) == 64 and json.dumps(record)
    x = digits()[0][:64]
    fid, of_whole = chosen.fid(x, tmp_path / "features.safetensors")
    assert fid == pytest.approx(frechet(Moments.of(extract(features.to_uint8(x, "edm"))), found), rel=1e-9)
    assert of_whole == chosen.describe(extract, found, 64) and of_whole["fid_label"] == "FID@64"
    in_batches, record = chosen.fid(x.split(20), tmp_path / "features.safetensors")
    assert in_batches == pytest.approx(fid, rel=1e-6) and record == of_whole


def test_a_reference_may_be_written_as_in_a_config() -> None:
    written = {"kind": "folder", "where": "real", "resize": {"rule": "adm", "size": 4}}
    assert protocol.protocol("edm", reference=written).reference == Source("folder", "real", resize=Resize("adm", 4))
    with pytest.raises(s4s.Error, match=r"unknown field of a reference 'path'.*where"):
        protocol.protocol("edm", reference={"kind": "folder", "path": "real"})
    with pytest.raises(s4s.Error, match="protocol 'edm' has no reference; name a data set or give `reference`"):
        protocol.protocol("edm").fid(torch.zeros(2, 3, 4, 4))
