"""MuJoCo below the families that use it: imported without a display, saved and restored to the last bit, drawn."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from replastic.errors import UserError
from replastic.extras import require

_CHOICE: Final = "MUJOCO_GL"
_BACKENDS: Final = ("egl", "osmesa", "glfw")
"""Modules of `mujoco` that make a GL context; the first two need no display."""


@contextmanager
def without_display() -> Iterator[None]:
    """Let what is imported in the block load no GL library, unless the user chose one by ``MUJOCO_GL``.

    The variable is back to what it was after the block. `Drawing` needs no choice: it makes its own GL context.
    """
    if _CHOICE in os.environ:
        yield
        return
    os.environ[_CHOICE] = "disable"
    try:
        yield
    finally:
        del os.environ[_CHOICE]


def package(extra: str, purpose: str) -> Any:
    """The package `mujoco`.

    Raises:
        MissingExtraError: It is not installed.
    """
    with without_display():
        return require("mujoco", extra, purpose)


class Memory:
    """Saves and restores the simulation of one model: positions and all that MuJoCo keeps from the last step."""

    def __init__(self, model: Any, data: Any) -> None:
        """Remember the model as it is now, and which arrays of `data` have a fixed size."""
        fresh = type(data)(model)
        self._names = [name for name, array in _arrays(fresh) if array.size and array.flags.writeable]
        self._original = {name: array.copy() for name, array in _arrays(model) if array.dtype.kind == "f"}

    def state(self, model: Any, data: Any) -> dict[str, Tensor]:
        """Arrays of the simulation, and those of the model that are not as they were (tasks move things in it)."""
        found = {f"data/{name}": getattr(data, name) for name in self._names}
        found |= {f"model/{n}": a for n, a in _arrays(model) if n in self._original and _differs(a, self._original[n])}
        return {"time": torch.tensor(data.time, dtype=torch.float64), **{n: _tensor(a) for n, a in found.items()}}

    def restore(self, model: Any, data: Any, state: Mapping[str, Tensor]) -> None:
        """Bring model and data to where `state` found them."""
        data.time = float(state["time"])
        for name, array in _arrays(model):
            if name in self._original and (f"model/{name}" in state or _differs(array, self._original[name])):
                array[...] = state[f"model/{name}"].numpy() if f"model/{name}" in state else self._original[name]
        self._restore(data, state)
        importlib.import_module("mujoco").mj_step1(model, data)  # contacts and constraints, which have no fixed size
        self._restore(data, state)

    def _restore(self, data: Any, state: Mapping[str, Tensor]) -> None:
        for name in self._names:
            getattr(data, name)[...] = state[f"data/{name}"].numpy()


class Drawing:
    """Pictures of one model, in a GL context of its own that shows on no screen."""

    def __init__(
        self, model: Any, name: str, *, height: int = 240, width: int = 320, camera: int | None = None
    ) -> None:
        """Make a context with the first library that works: ``MUJOCO_GL``, EGL, OSMesa, GLFW.

        Raises:
            UserError: None of them works here.
        """
        self._mujoco = mujoco = importlib.import_module("mujoco")
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, height)
        self._rectangle = mujoco.MjrRect(0, 0, width, height)
        self._gl = _context(name, width, height)
        self._scene, self._option = mujoco.MjvScene(model, maxgeom=2000), mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        mujoco.mjv_defaultFreeCamera(model, self._camera)
        chosen = (0 if model.ncam else None) if camera is None else camera
        if chosen is not None:
            self._camera.type, self._camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, chosen
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)

    def __call__(self, model: Any, data: Any) -> Tensor:
        """The scene as it stands, (height, width, 3) uint8."""
        mujoco, box = self._mujoco, self._rectangle
        self._gl.make_current()
        every = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(model, data, self._option, None, self._camera, every, self._scene)
        mujoco.mjr_render(box, self._scene, self._context)
        picture = np.empty((box.height, box.width, 3), np.uint8)
        mujoco.mjr_readPixels(picture, None, box, self._context)
        return torch.from_numpy(picture[::-1].copy())

    def close(self) -> None:
        """Free the context."""
        self._context.free()
        self._gl.free()


def _context(name: str, width: int, height: int) -> Any:
    wanted = os.environ.get(_CHOICE, "").lower()
    order = (wanted,) if wanted in _BACKENDS else _BACKENDS
    for backend in order:
        try:
            context = importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
            context.make_current()
            return context
        except Exception:  # each library has errors of its own for "not on this machine"
            continue
    raise UserError(
        f"{name} cannot be drawn here: no GL library works ({', '.join(order)}); install one (Debian and Ubuntu: apt "
        "install libegl1 libgl1 libglx-mesa0, or libosmesa6 with MUJOCO_GL=osmesa), or leave recording out"
    )


def _arrays(owner: Any) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """The arrays among the attributes of a model or its data."""
    for name in dir(owner):
        if not name.startswith("_"):
            value = getattr(owner, name, None)
            if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
                yield name, value


def _differs(array: np.ndarray[Any, Any], original: np.ndarray[Any, Any]) -> bool:
    return not np.array_equal(array, original)


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array).copy())
