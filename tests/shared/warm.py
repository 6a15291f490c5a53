"""Commands without their start: each a fork of one process that has imported what takes a new one seconds.

python warm.py serve SOCKET         until its standard input ends
python warm.py call SOCKET fit ...  what `s4s fit ...` does here: output, folder, environment, exit status or signal
"""

from __future__ import annotations

import array
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

PROGRAMS = {"s4s": "s4s.cli.main", "snakemake": "snakemake.cli"}
HEAVY = ("sklearn.datasets", "torch._decomp.decompositions_for_jvp", "torch._dynamo", "torch_fidelity")
FAULTS = Path(__file__).parents[1] / "faults" / "sitecustomize.py"  # what a new Python would find in PYTHONPATH


def serve(where: str) -> None:
    """Fork for every call; the fork forks again for the command and stays with it."""
    import s4s

    ours = [module.name for module in pkgutil.walk_packages(s4s.__path__, "s4s.") if module.name != "s4s.__main__"]
    ours = [name for name in ours if ".comfyui." not in name]  # which imports its host
    with warnings.catch_warnings(action="ignore"):
        for module in (*HEAVY, *ours, *PROGRAMS.values()):
            importlib.import_module(module)
    gc.freeze()  # forks share what they do not touch
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(where)
        listener.listen()
        print("ready", flush=True)
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            caller, _ = listener.accept()
            if os.fork() == 0:
                asked, files = receive(caller)
                alive, end = os.pipe()  # its other end closes with the command
                command = os.fork()
                if not command:
                    os._exit(run(asked, files))
                os.close(end)
                os._exit(stay_with(command, alive, caller))
            caller.close()
    while True:  # what they used counts as ours
        try:
            os.wait()
        except ChildProcessError:
            return


def receive(caller: socket.socket) -> tuple[dict[str, Any], Iterable[int]]:
    """What is asked for, and where its output goes."""
    head, files, *_ = caller.recvmsg(8, socket.CMSG_SPACE(2 * array.array("i").itemsize))
    return json.loads(caller.recv(int(head), socket.MSG_WAITALL)), array.array("i", files[0][2])


def stay_with(command: int, alive: int, caller: socket.socket) -> int:
    """Tell the caller how a command ended, or end it when the caller is gone."""
    if alive not in select.select([alive, caller], [], [])[0]:
        os.kill(command, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
    with suppress(OSError):
        caller.sendall(str(status).encode())
    return 0


def run(asked: dict[str, Any], files: Iterable[int]) -> int:
    """One command as its caller would run it, and its exit status."""
    for file, end in zip(files, (1, 2), strict=True):
        os.dup2(file, end)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = asked["arguments"]
    if "S4S_FAULT" in os.environ:
        runpy.run_path(str(FAULTS))
    status = 0
    try:
        importlib.import_module(PROGRAMS[sys.argv[0]]).main()
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        status = 1
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def call(where: str, *arguments: str) -> None:
    """Have a command run; end as it ends."""
    asked = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    text = json.dumps(asked).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(where)
        socket.send_fds(server, [f"{len(text):8d}".encode()], [1, 2])
        server.sendall(text)
        status = int(server.recv(8) or 1)
    if status < 0:
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    {"serve": serve, "call": call}[sys.argv[1]](*sys.argv[2:])
