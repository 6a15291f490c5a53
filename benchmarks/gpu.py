"""What a GPU takes: images a second beside the bare network, and S4S-Alt fits. Prints two tables.

    python benchmarks/gpu.py [--network cifar10] [--device cuda] [--batch 32] [--nfe 5 10] [--rounds 5] [--train 1400]

The network is EDM's with random weights: ``cifar10`` (55.7 M parameters), or ``s`` and ``m`` of ``make bench``. The
bare network is NFE calls of it on one state, with the same dtype and compilation.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from measure import GIB, PROCESS, M, S, interleaved, network, ratio
from torch import Tensor, nn
from tqdm import tqdm

import s4s
from s4s.learn.memory import keep_freed
from s4s.models.edm import CIFAR10, EDMNetwork
from s4s.models.model import running

NETWORKS = {"cifar10": CIFAR10, "m": M, "s": S}
DTYPES = ("float32", "tf32", "bfloat16")
TEACHER_NFE, HELD_OUT = 20, 256


class Clock:
    """Seconds that a network's forward and backward passes take: on a GPU of its own time, else of the wall's."""

    def __init__(self, net: nn.Module, device: str) -> None:
        self.device, self.marks = device, list[Any]()
        net.register_forward_pre_hook(self.mark)
        net.register_forward_hook(self.mark)
        net.register_full_backward_pre_hook(self.mark)
        net.register_full_backward_hook(self.mark)

    def mark(self, *_: object) -> None:
        """Begin or end, in turn."""
        if self.device == "cpu":
            self.marks.append(time.perf_counter())
        else:
            self.marks.append(torch.cuda.Event(enable_timing=True))
            self.marks[-1].record()

    @property
    def seconds(self) -> float:
        pairs = zip(self.marks[::2], self.marks[1::2], strict=True)
        if self.device == "cpu":
            return sum(end - begin for begin, end in pairs)
        torch.cuda.synchronize()
        return sum(begin.elapsed_time(end) for begin, end in pairs) / 1e3


def in_dtype(net: EDMNetwork, dtype: str) -> EDMNetwork:
    """A copy whose convolutions are of that dtype, as ``s4s.models.edm.load_edm`` makes it."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.GroupNorm) and dtype == "bfloat16":
            module.to(torch.bfloat16)
    return net


def sampling(net: EDMNetwork, dtype: str, compiled: bool, args: argparse.Namespace) -> tuple[float, float]:
    """Images a second, and that as a fraction of what the bare network would make."""
    own, solver = in_dtype(net, dtype), start(max(args.nfe))
    x_T = solver.x_T(s4s.noise(0, range(args.batch), shape(net)).float().to(args.device))
    run = running(lambda x, sigma, condition: own(x, sigma), {"dtype": dtype, "compile": compiled})

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return run(x, sigma, None)

    def bare() -> None:
        for sigma in solver.sigma_eval:
            denoise(x_T, sigma)

    with torch.no_grad():
        taken = interleaved({"bare": bare, "ours": lambda: s4s.sample(solver, denoise, x_T)}, args.rounds, args.device)
    return args.batch / statistics.median(taken["ours"]), ratio(taken["bare"], taken["ours"])


def fitted(net: EDMNetwork, nfe: int, args: argparse.Namespace) -> str:
    """A row of the table of fits."""
    strong = s4s.solver("dpmpp", s4s.grid("logsnr", PROCESS, TEACHER_NFE), order=3)
    teacher = s4s.teacher_set(strong, net, n=args.train + HELD_OUT, shape=shape(net), seed=0, batch=args.batch,
                              device=args.device)  # fmt: skip
    own = copy.deepcopy(net)
    clock = Clock(own, args.device)
    if args.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    found = s4s.fit(start(nfe), own, teacher, "s4s-alt", validation=HELD_OUT, microbatch=args.batch, progress="fit")
    peak = "-" if args.device == "cpu" else f"{torch.cuda.max_memory_allocated() / GIB:.2f}"
    share, won = clock.seconds / found.seconds, found.raced[-1]["start"]
    return f"| {nfe} | {found.evaluations:,} | {found.seconds:.1f} | {peak} | {share:.2f} | {won} |"


def start(nfe: int) -> s4s.Solver:
    """What is sampled with, and where fits begin."""
    return s4s.solver("ipndm", s4s.grid("edm", PROCESS, nfe), order=3)


def shape(net: EDMNetwork) -> tuple[int, int, int]:
    """Of a sample."""
    return net.config.channels, net.config.resolution, net.config.resolution


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="cifar10")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--batch", type=int, default=32, help="samples of a network call")
    parser.add_argument("--nfe", type=int, nargs="+", default=[5, 10], help="of fits; the most is sampled with")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds of sampling")
    parser.add_argument("--train", type=int, default=1400, help=f"samples of the teacher, beside {HELD_OUT} held out")
    args = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = False  # as the commands of s4s do, fits need float32
    keep_freed()
    net = network(NETWORKS[args.network], args.device)
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    cases: list[tuple[str, Callable[[], tuple[float, float]]]] = [
        (f"| {dtype} | {'yes' if compiled else 'no'} |", lambda d=dtype, c=compiled: sampling(net, d, c, args))
        for dtype in DTYPES for compiled in (False, True)
    ]  # fmt: skip
    rows = [f"{case} {each[0]:.0f} | {each[1]:.2f} |" for case, run in tqdm(cases, desc="sampling") if (each := run())]
    fits = [fitted(net, nfe, args) for nfe in args.nfe]
    print(f"{name}, torch {torch.__version__}, network {args.network}, batch {args.batch}, sampling at {max(args.nfe)}"
          f" NFE, medians of {args.rounds} interleaved rounds\n")  # fmt: skip
    print("| dtype | compiled | images a second | of the bare network |\n|---|---|---|---|", *rows, sep="\n")
    print("\n| NFE | evaluations | seconds | peak GiB | in the network | won the race |\n|---|---|---|---|---|---|")
    print(*fits, sep="\n")


if __name__ == "__main__":
    main()
