"""The pixel-space networks of EDM (Karras et al. 2022): DDPM++ inside the EDM preconditioning, and their files.

``import_edm`` turns a published pickle into two files, ``NAME.safetensors`` and ``NAME.json``; ``load_edm`` reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from s4s.errors import Error
from s4s.files import sha256
from s4s.models.ddpmpp import UNet, UNetConfig

SCHEMA = "s4s-edm"
SCHEMA_VERSION = 1
MAX_RECORD_BYTES = 1 << 20

CIFAR10 = UNetConfig(32, augment_dim=9, channel_mult=(2, 2, 2), dropout=0.13)
FFHQ = UNetConfig(64, augment_dim=9, dropout=0.05)
AFHQV2 = UNetConfig(64, augment_dim=9, dropout=0.25)

Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
"""Name -> (dtype, shape) of the tensors of a checkpoint."""


class EDMNetwork(nn.Module):
    """Denoiser ``(x, sigma) -> x_0``: the U-Net inside the EDM preconditioning (Karras et al. 2022, Table 1).

    Args:
        config: shape of the U-Net.
        sigma_data: standard deviation of the data.
    """

    def __init__(self, config: UNetConfig, sigma_data: float = 0.5) -> None:
        super().__init__()
        if type(sigma_data) not in (int, float) or not 0 < sigma_data < 1e6:
            raise Error("network configuration: 'sigma_data' must be a positive number")
        self.config = config
        self.sigma_data = float(sigma_data)
        self.model = UNet(config)

    def forward(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        """Predict the clean images.

        Args:
            x: [B, C, H, W] in EDM coordinates; the arithmetic around the U-Net is done in its dtype, at least float32.
            sigma: scalar or [B] noise level in data units, positive.
            class_labels: [B] class numbers or [B, label_dim] one-hot rows; None is "no class".

        Returns:
            [B, C, H, W] in data units.

        Raises:
            Error: images of another size, or labels for an unconditional network.
        """
        size = self.config.resolution
        if x.shape[1:] != (self.config.channels, size, size):
            raise Error(f"the network takes [B, {self.config.channels}, {size}, {size}] images, got {list(x.shape)}")
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1).expand(len(x))[:, None, None, None]
        total = (level**2 + self.sigma_data**2).sqrt()
        out = self.model(x / total, level.flatten().log() / 4, self._one_hot(class_labels, len(x)))
        D: Tensor = (self.sigma_data / total) ** 2 * x + level * self.sigma_data / total * out.to(x.dtype)
        return D

    def _one_hot(self, labels: Tensor | None, batch: int) -> Tensor | None:
        classes = self.config.label_dim
        if not classes:
            if labels is not None:
                raise Error("class_labels given to an unconditional network")
            return None
        if labels is None:
            return torch.zeros(batch, classes, device=self.model.map_layer0.weight.device)
        if labels.ndim == 1:
            return F.one_hot(labels.long(), classes).to(torch.float32)
        if labels.shape != (batch, classes):
            raise Error(f"class_labels must be [{batch}] or [{batch}, {classes}], got {list(labels.shape)}")
        return labels


def load_edm(
    path: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
) -> EDMNetwork:
    """Load imported weights: frozen, in evaluation mode.

    Args:
        path: the ``.safetensors`` file written by ``import_edm``; its ``.json`` lies beside it.
        device: where the network goes.
        dtype: of the U-Net's convolutions; with float16 and bfloat16 the level embedding stays in float32.
        channels_last: memory format of the convolutions, faster on recent GPUs.

    Raises:
        Error: a file is missing, damaged or of another schema, or the weights are not those of the configuration.
    """
    path = Path(path)
    record = _read_record(path.with_suffix(".json"))
    net = skeleton(record["config"], record["sigma_data"])
    net.load_state_dict(_read_weights(path, record["sha256"], net), assign=True)
    memory_format = torch.channels_last if channels_last else torch.preserve_format
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.GroupNorm):
            module.to(dtype=dtype, memory_format=memory_format)  # type: ignore[call-overload]
    return net.to(device).eval().requires_grad_(False)


def skeleton(config: UNetConfig, sigma_data: float = 0.5) -> EDMNetwork:
    """The network without memory behind its tensors, for counting and for loading into."""
    with torch.device("meta"):
        return EDMNetwork(config, sigma_data)


def layout(tensors: Mapping[str, Tensor]) -> Layout:
    """Names, dtypes and shapes."""
    return {key: (value.dtype, tuple(value.shape)) for key, value in tensors.items()}


def check_layout(net: EDMNetwork, given: Layout) -> None:
    """Raise unless names, shapes and dtypes are exactly the network's."""
    expected = layout(net.state_dict())
    for kind, keys in (("lacks", expected.keys() - given.keys()), ("has the unknown", given.keys() - expected.keys())):
        if keys:
            raise Error(f"the checkpoint {kind} tensor {min(keys)[:80]!r} ({len(keys)} in all)")
    for key, (dtype, shape) in expected.items():
        if given[key] != (dtype, shape):
            raise Error(f"tensor {key!r} is {given[key][0]} {list(given[key][1])}, needs {dtype} {list(shape)}")


def dump_record(net: EDMNetwork, weights: dict[str, Any], source: dict[str, Any]) -> str:
    """The text of the JSON file beside the weights: configuration, SHA-256 of both files, where they came from."""
    head = {"schema": SCHEMA, "version": SCHEMA_VERSION}
    body = {"config": asdict(net.config), "sigma_data": net.sigma_data, "weights": weights, "source": source}
    return json.dumps(head | body, indent=2) + "\n"


def read_config(path: Path) -> UNetConfig:
    """The configuration in the ``.json`` file beside imported weights."""
    config: UNetConfig = _read_record(path)["config"]
    return config


def _read_record(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            record = json.loads(file.read(MAX_RECORD_BYTES))
    except OSError as error:
        raise Error(f"{path}: cannot read the network's configuration ({error.strerror}); import it again") from error
    except (ValueError, RecursionError) as error:
        raise Error(f"{path}: not a network configuration, or a truncated one; import the network again") from error
    if not isinstance(record, dict) or (record.get("schema"), record.get("version")) != (SCHEMA, SCHEMA_VERSION):
        raise Error(f"{path}: not an {SCHEMA} file of version {SCHEMA_VERSION}; import the network again")
    weights = record.get("weights")
    digest = weights.get("sha256") if isinstance(weights, dict) else None
    try:
        config = UNetConfig.from_dict(record.get("config"))
    except Error as error:
        raise Error(f"{path}: {error}") from error
    return {"config": config, "sigma_data": record.get("sigma_data"), "sha256": digest}


def _read_weights(path: Path, digest: object, net: EDMNetwork) -> dict[str, Tensor]:
    try:
        if sha256(path) != digest:
            raise Error("not the weights that the .json file beside it describes")
        tensors = load_file(path)
        check_layout(net, layout(tensors))
    except OSError as error:
        raise Error(f"{path}: cannot read the weights ({error.strerror}); import them first") from error
    except (Error, SafetensorError) as error:
        raise Error(f"{path}: {error}; import the network again") from error
    return dict(tensors)
