"""Nodes for ComfyUI: this folder, copied or linked into ``custom_nodes``, and ``s4s`` installed beside it.

``custom_nodes/s4s_nodes/__init__.py`` may as well hold one line:

    from s4s.integrations.comfyui import comfy_entrypoint
"""

from __future__ import annotations

from typing import Any


async def comfy_entrypoint() -> Any:
    """What ComfyUI calls for its nodes. They come from the installed ``s4s``, whichever way this file is found."""
    from s4s.integrations.comfyui.nodes import Extension

    return Extension()
