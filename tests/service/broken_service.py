"""Defects of a served process, which begin once a file is there."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from model.runtimes import OpenVinoRuntime
from model.torch_runtime import TorchRuntime
from service.engine.admission import Admission

FOR_EVER = 3600


def hang() -> None:
    time.sleep(FOR_EVER)


def hold_the_interpreter() -> None:
    # PyDLL, other than CDLL, does not let other threads run meanwhile, as a faulty library may not.
    ctypes.PyDLL(None).sleep(FOR_EVER)


def lose_the_device() -> None:
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    error.error_code = 700
    raise error


def run_out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


EMBEDS = ((OpenVinoRuntime, "embed"), (TorchRuntime, "embed"))
DEFECTS: dict[str, tuple[tuple[tuple[Any, str], ...], Callable[[], None]]] = {
    "device hangs": (EMBEDS, hang),
    "device lost": (EMBEDS, lose_the_device),
    "device full": (EMBEDS, run_out_of_memory),
    "event loop hangs": (((Admission, "admit"),), hang),
    "interpreter held": (EMBEDS, hold_the_interpreter),
}


def break_service(defect: str, begins: str) -> None:
    """Give this process a defect once the file `begins` is there."""
    places, break_it = DEFECTS[defect]

    def broken(whole: Any) -> Any:
        def run(*arguments: Any, **more: Any) -> Any:
            if Path(begins).exists():
                break_it()
            return whole(*arguments, **more)

        return run

    for owner, name in places:
        setattr(owner, name, broken(getattr(owner, name)))
