"""``s4s doctor``: what a machine has and lacks for each benchmark, and what the benchmark costs."""

from __future__ import annotations

import math
import os
import platform
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from s4s.download import cache_dir
from s4s.errors import Error
from s4s.stages import costs
from s4s.stages.cells import rows_a_call
from s4s.stages.config import load
from s4s.stages.passes import Pass, passes
from s4s.stages.present import Item, channels, network, scoring, solvers, version
from s4s.version import __version__

Config = Mapping[str, Any]
TFLOPS = {"float32": 10.0, "tf32": 40.0, "float16": 80.0, "bfloat16": 80.0}  # a guess for a GPU of the A100's class
CPU_TFLOPS = 0.04  # one core of 2020 or later; measured on a network as small as the digits'
VERSIONS = ("torch", "torchvision", "torch-fidelity", "numpy", "safetensors", "diffusers", "transformers", "snakemake")
ADVICE = "`s4s download CONFIG` fetches missing files that have an address, where there is a network."
GIB, WIDTH = 1 << 30, 100


def report(paths: list[Path], results: Path, tflops: float | None = None) -> tuple[list[str], bool]:
    """Lines about this machine and about every config, and whether all that they need is there.

    Args:
        paths: of configs.
        results: folder of all results.
        tflops: sustained throughput of the GPU in 10^12 operations a second; None assumes one.
    """
    lines, found = [f"s4s {__version__}", *_lines(machine(results))], []
    for path in paths:
        lines += ["", str(path)]
        try:
            items = list(benchmark(load(path), results, tflops))
        except Error as error:
            items = [Item("missing", "config", str(error))]
        lines += _lines(items)
        found += [item for item in items if item.state == "missing"]
    fetched = any("://" in item.text for item in found if item.name != "config")
    return [*lines, *["", ADVICE] * fetched], not found


def _number(value: float, decimals: int) -> str:
    """With so many decimals, or with two significant digits where those would say less."""
    if 0 < value < 10 ** (1 - decimals):
        decimals = 1 - math.floor(math.log10(value))
    return f"{value:,.{decimals}f}"


def _lines(items: list[Item]) -> list[str]:
    """Three columns; long texts go on below themselves, addresses and paths in one piece."""
    made = []
    for item in items:
        wrapped = textwrap.wrap(item.text, WIDTH, break_long_words=False, break_on_hyphens=False)
        made.append(f"  {item.state:<8} {item.name:<11} {wrapped[0]}")
        made += [" " * 23 + line for line in wrapped[1:]]
    return made


def machine(results: Path) -> list[Item]:
    """Versions, processors, and free disk."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    versions = ", ".join(f"{name} {version(name) or 'not installed'}" for name in VERSIONS)
    return [
        Item("", "versions", f"python {platform.python_version()}, {versions}"),
        Item("", "CPU", f"{os.cpu_count()} cores" + (f", {memory / GIB:.0f} GiB of memory" if memory else "")),
        Item("", "GPU", _gpu() or "none that torch finds"),
        Item("", "cache", f"{cache_dir()} ($S4S_CACHE), {_free(cache_dir()) / GIB:,.0f} GiB free"),
        Item("", "results", f"{results}, {_free(results) / GIB:,.0f} GiB free"),
    ]


def _gpu() -> str:
    if not torch.cuda.is_available():
        return ""
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return ", ".join(f"{gpu.name} with {gpu.total_memory / GIB:.0f} GiB" for gpu in found)


def _free(path: Path) -> int:
    """Bytes free where a folder is or would be."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def benchmark(config: Config, results: Path, tflops: float | None = None) -> Iterator[Item]:
    """What one config needs: files, packages, disk, memory, time."""
    items, root = network(config, results / config["benchmark"] / "models" / "denoiser.safetensors")
    yield from items
    if all(item.state != "missing" for item in items):
        yield solvers(config, root)
    yield from scoring(config)
    yield from _costs(config, root, results, tflops)


def _costs(config: Config, root: Path, results: Path, tflops: float | None) -> Iterator[Item]:
    """Disk, memory and time; nothing but a line while the network's sizes are not known."""
    try:
        found = passes(config, root)
    except (ImportError, Error) as error:
        yield Item("", "costs", f"cannot be counted: {error}")
        return
    if not found:
        yield Item("", "costs", "counted once the network's sizes are known: import it, or set score.data")
        return
    yield channels(config, found)
    digits, dtype = config["model"]["type"] == "digits", config["model"].get("dtype", "float32")
    yield _disk(config, found, results)
    size, rows = costs.memory(config, found)
    yield Item("", "memory", f"about {_number(size / GIB, 1)} GiB for calls of {rows} rows in {dtype}"
               + ("" if digits else f"; GPU: {_gpu() or 'none that torch finds'}"))  # fmt: skip
    rate = CPU_TFLOPS if digits else tflops or TFLOPS[dtype]
    hours = {stage: count / rate / 1e12 / 3600 for stage, count in costs.flops(config, found).items()}
    parts = ", ".join(f"{stage} {_number(value, 1)}" for stage, value in hours.items())
    calls = sum(costs.evaluations(config).values())
    stated = "one CPU core" if digits else "a GPU, as stated" if tflops else f"a GPU of the A100's class in {dtype}"
    yield Item("", "time", f"about {_number(sum(hours.values()), 1)} {'CPU' if digits else 'GPU'} hours: {parts}")
    each = found[0].flops * rows_a_call(config) / 1e9
    yield Item("", "", f"{calls:,} network evaluations of {_number(each, 2)} GFLOP, at an assumed {rate:g} TFLOP/s of "
               f"{stated}; training and scoring are not in it")  # fmt: skip


def _disk(config: Config, found: list[Pass], results: Path) -> Item:
    parts = costs.disk(config, found)
    if config["model"]["type"] != "digits":
        parts = {"weights, twice": 8 * sum(network.parameters for network in found)} | parts
    needed, free = sum(parts.values()), _free(results)
    said = ", ".join(f"{name} {_number(size / GIB, 1)}" for name, size in parts.items())
    state = "ok" if needed <= free else "missing"
    return Item(
        state, "disk", f"{_number(needed / GIB, 1)} GiB needed ({said}), {_number(free / GIB, 1)} free at {results}"
    )
