"""The nodes: load a solver, pick one of a bundle by its steps, and SAMPLER and SIGMAS of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import comfy.samplers
import folder_paths
from comfy_api.latest import ComfyExtension, io

from s4s.bundle import Bundle, load_bundle
from s4s.curve import Curve
from s4s.errors import Error, require_choice
from s4s.integrations.comfyui.sampler import sample_comfyui, sigmas_of
from s4s.show import card, describe, describe_curve
from s4s.solver import Solver

FOLDER = "s4s"
CATEGORY = "sampling/custom_sampling/s4s"
SOLVERS = io.Custom("S4S_SOLVER")
FINISHES = {"one more evaluation": True, "no evaluation": False}

folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))


def files() -> list[str]:
    """What lies in ``models/s4s``."""
    return sorted(name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(".json"))


def path(file: str) -> Path:
    """Where a file of the list is."""
    found = folder_paths.get_full_path(FOLDER, file)
    if found is None:
        raise Error(f"no {file} in ComfyUI's models/{FOLDER}; it holds {', '.join(files()) or 'no solver files'}")
    return Path(found)


class LoadSolver(io.ComfyNode):  # type: ignore[misc]
    """A solver file of ``models/s4s``."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="S4SLoadSolver",
            display_name="Load S4S Solver",
            category=CATEGORY,
            description="A solver, or a bundle or curve of them, that s4s fitted for a model.",
            inputs=[io.Combo.Input("file", options=files(), tooltip="A .json file in ComfyUI's models/s4s.")],
            outputs=[SOLVERS.Output(display_name="solver"), io.String.Output(display_name="about")],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str) -> Any:
        """A file that has changed is read again."""
        return hashlib.sha256(path(file).read_bytes()).hexdigest()

    @classmethod
    def execute(cls, file: str) -> Any:
        found = load_bundle(path(file))
        said = [describe_curve(found)] if isinstance(found, Curve) else map(describe, found.values())
        parts = [card(found.provenance), *said]
        return io.NodeOutput(found, "\n\n".join(filter(None, parts)))


class PickSolver(io.ComfyNode):  # type: ignore[misc]
    """One solver of a bundle."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="S4SPickSolver",
            display_name="Pick S4S Solver by Steps",
            category=CATEGORY,
            description="The solver of a bundle or curve that makes this many evaluations.",
            inputs=[SOLVERS.Input("solver"), io.Int.Input("steps", default=6, min=1, max=1000)],
            outputs=[SOLVERS.Output(display_name="solver")],
        )

    @classmethod
    def execute(cls, solver: Bundle | Curve, steps: int) -> Any:
        return io.NodeOutput(Bundle({steps: solver[steps]}, solver.provenance))


class SolverSampler(io.ComfyNode):  # type: ignore[misc]
    """SAMPLER and SIGMAS that belong together."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="S4SSampler",
            display_name="S4S Sampler and Sigmas",
            category=CATEGORY,
            description="Both for SamplerCustom or SamplerCustomAdvanced. The sampler takes no other sigmas.",
            inputs=[
                io.Model.Input("model", tooltip="The model that is sampled; its kind and its largest sigma are read."),
                SOLVERS.Input("solver"),
                io.Combo.Input(
                    "finish",
                    options=list(FINISHES),
                    tooltip="How a solver that ends above level 0 gets there: its last noise is taken out by one more "
                    "evaluation, or the line of its last step is followed.",
                ),
            ],
            outputs=[io.Sampler.Output(), io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, model: Any, solver: Mapping[int, Solver], finish: str) -> Any:
        chosen = finished(only(solver), finish)
        sigmas = sigmas_of(chosen, model.get_model_object("model_sampling"))
        return io.NodeOutput(comfy.samplers.KSAMPLER(partial(sample_comfyui, solver=chosen)), sigmas)


class Extension(ComfyExtension):  # type: ignore[misc]
    """All of them."""

    async def get_node_list(self) -> list[Any]:
        return [LoadSolver, PickSolver, SolverSampler]


def only(bundle: Mapping[int, Solver]) -> Solver:
    """The solver of a bundle of one."""
    if len(bundle) > 1:
        numbers = ", ".join(map(str, bundle))
        raise Error(f"the bundle holds solvers of {numbers} steps: put the node that picks one before this one")
    (solver,) = bundle.values()
    return solver


def finished(solver: Solver, finish: str) -> Solver:
    """The solver, ending at level 0."""
    require_choice("finish", finish, FINISHES)
    return solver if solver.sigma[-1] == 0 else solver.finish(evaluate=FINISHES[finish])
