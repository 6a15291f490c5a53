"""Frechet distances against closed forms, exact merging, 8-bit rules, torch-fidelity's registry."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import s4s
from s4s import metrics
from s4s.metrics import Moments, frechet
from s4s.models import weights
from s4s.models.digits import Classifier


def test_frechet_of_commuting_gaussians_is_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.linalg.qr(torch.randn(500, 6, generator=generator, dtype=torch.float64)).Q
    base = base - base.mean(0)
    scale = torch.arange(1.0, 7, dtype=torch.float64)
    a, b = Moments.of(base), Moments.of(base * scale + 2)
    root = torch.linalg.cholesky(a.covariance)  # covariances share no basis once scaled: check against the definition
    cross = torch.linalg.eigvals(a.covariance @ b.covariance).real.clamp(min=0).sqrt().sum()
    expected = 24 + a.covariance.trace() + b.covariance.trace() - 2 * cross
    assert frechet(a, b) == pytest.approx(expected.item(), rel=1e-10)
    assert frechet(a, a) == pytest.approx(0, abs=1e-12)
    assert root.isfinite().all()


def test_frechet_agrees_with_torch_fidelity() -> None:
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    generator = torch.Generator().manual_seed(1)
    a = torch.randn(300, 8, generator=generator, dtype=torch.float64)
    b = torch.randn(400, 8, generator=generator, dtype=torch.float64) * 1.3 + 0.1
    stats = [{"mu": m.mean.numpy(), "sigma": m.covariance.numpy()} for m in (Moments.of(a), Moments.of(b))]
    theirs = fid_statistics_to_metric(*stats, False)["frechet_inception_distance"]
    assert frechet(Moments.of(a), Moments.of(b)) == pytest.approx(theirs, rel=1e-6)


def test_moments_merge_exactly() -> None:
    x = torch.randint(-50, 50, (97, 5)).double()  # whole numbers: sums are exact in any order
    whole, parts = Moments.of(x), Moments.merge(Moments.of(part) for part in x.split([10, 60, 27]))
    assert torch.equal(whole.outer, parts.outer) and torch.equal(whole.total, parts.total)
    assert torch.allclose(whole.covariance, torch.cov(x.T))


def test_uint8_rules_differ_as_documented() -> None:
    x = torch.linspace(-1, 1, 100_001, dtype=torch.float64)
    edm, ldm, diffusers = (metrics.to_uint8(x, rule).int() for rule in ("edm", "ldm", "diffusers"))
    assert ((edm != ldm).double().mean() - 0.5).abs() < 0.01
    assert (edm != diffusers).double().mean() < 1e-2
    assert edm.min() == 0 and edm.max() == 255


def test_features_do_not_depend_on_the_split(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights.save(Classifier(), tmp_path / "features.safetensors")
    extract = metrics.extractor("digits", tmp_path / "features.safetensors")
    images = torch.randint(0, 256, (610, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(extract(images)[250:500], extract(images[250:500]))
    assert extract(images).shape == (610, 64)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(s4s.Error, match="unknown feature extractor 'inception9'; choose one of: "):
        metrics.extractor("inception9")
    with pytest.raises(s4s.Error, match="at least two samples"):
        frechet(Moments.of(torch.ones(1, 2).double()), Moments.of(torch.ones(5, 2).double()))
    assert metrics.fid_label(5000) == "FID@5000" and metrics.fid_label(50_000) == "FID"
