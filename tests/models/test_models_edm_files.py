"""EDM networks from imported files: lossless, in half precision, and refused when damaged."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nvidia_pickle
import pytest
import torch

import s4s
from s4s.models.convert import import_edm
from s4s.models.edm import EDMNetwork, load_edm


@pytest.fixture
def imported(tmp_path: Path) -> tuple[EDMNetwork, Path]:
    net, top = nvidia_pickle.network()
    data = nvidia_pickle.dump(top)
    (tmp_path / "net.pkl").write_bytes(data)
    out = tmp_path / "made" / "net.safetensors"
    import_edm(tmp_path / "net.pkl", out, hashlib.sha256(data).hexdigest().upper(), licence="CC BY-NC-SA 4.0")
    return net, out


def test_import_then_load_gives_the_same_network(imported: tuple[EDMNetwork, Path]) -> None:
    net, out = imported
    loaded = load_edm(out)
    assert list(loaded.state_dict()) == list(net.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), net.state_dict().values(), strict=True))
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(loaded(x, 1.0), net(x, 1.0))
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["source"]["sha256"] == hashlib.sha256((out.parents[1] / "net.pkl").read_bytes()).hexdigest()
    assert record["weights"]["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert record["source"]["licence"] == "CC BY-NC-SA 4.0"
    assert sorted(path.name for path in out.parent.iterdir()) == ["net.json", "net.safetensors"]


def test_becomes_a_denoiser(imported: tuple[EDMNetwork, Path]) -> None:
    process = s4s.EDM(sigma_min=0.01, sigma_max=20.0)
    net = load_edm(imported[1])
    denoise = process.denoiser(net, prediction="x0")
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    assert torch.equal(denoise(x, torch.tensor(2.0)), net(x, torch.full([3], 2.0)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_body(imported: tuple[EDMNetwork, Path], dtype: torch.dtype) -> None:
    exact, half = load_edm(imported[1]), load_edm(imported[1], dtype=dtype, channels_last=True)
    x = torch.randn(4, 1, 4, 4)
    assert half(x, 1.0).dtype == torch.float32
    assert half.model.map_layer0.weight.dtype == torch.float32
    torch.testing.assert_close(half(x, 1.0), exact(x, 1.0), rtol=0.05, atol=0.05)
    last = load_edm(imported[1], channels_last=True)
    torch.testing.assert_close(last(x, 1.0), exact(x, 1.0), rtol=1e-5, atol=1e-5)


def edit(path: Path, **changes: object) -> None:
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | changes))


@pytest.mark.parametrize(("damage", "message"), [
    (lambda out: out.unlink(), "cannot read the weights .*import"),
    (lambda out: out.with_suffix(".json").unlink(), "cannot read the network's configuration"),
    (lambda out: out.with_suffix(".json").write_text("{"), "truncated"),
    (lambda out: out.with_suffix(".json").write_text("[" * 100_000), "truncated"),
    (lambda out: out.with_suffix(".json").write_text("[]"), "not an s4s-edm file"),
    (lambda out: edit(out.with_suffix(".json"), version=9), "not an s4s-edm file of version 1"),
    (lambda out: edit(out.with_suffix(".json"), weights=None), "not the weights"),
    (lambda out: edit(out.with_suffix(".json"), sigma_data="half"), "'sigma_data'"),
    (lambda out: edit(out.with_suffix(".json"), config={"resolution": 4}), "needs exactly the keys"),
    (lambda out: out.write_bytes(out.read_bytes()[:-1]), "not the weights"),
])  # fmt: skip
def test_damaged_files_are_refused(imported: tuple[EDMNetwork, Path], damage: object, message: str) -> None:
    damage(imported[1])  # type: ignore[operator]
    with pytest.raises(s4s.Error, match=message) as caught:
        load_edm(imported[1])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\xff" * 8, (1 << 62).to_bytes(8, "little") + b"{}", b"\x02\0\0\0\0\0\0\0{}"])
def test_a_safetensors_file_that_is_none_is_refused(imported: tuple[EDMNetwork, Path], data: bytes) -> None:
    out = imported[1]
    out.write_bytes(data)
    edit(out.with_suffix(".json"), weights={"sha256": hashlib.sha256(data).hexdigest()})
    with pytest.raises(s4s.Error, match="import the network again") as caught:
        load_edm(out)
    assert "\n" not in str(caught.value)
