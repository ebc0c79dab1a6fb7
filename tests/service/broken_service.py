"""Defects of a served process, which begin once a file is there."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from service.engine.admission import Admission
from service.engine.networks import Networks

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


DEFECTS: dict[str, tuple[Any, str, Callable[[], None]]] = {
    "device hangs": (Networks, "embed", hang),
    "device lost": (Networks, "embed", lose_the_device),
    "device full": (Networks, "embed", run_out_of_memory),
    "event loop hangs": (Admission, "image_slots", hang),
    "interpreter held": (Networks, "embed", hold_the_interpreter),
}


def break_service(defect: str, begins: str) -> None:
    """Lets this process have a defect once the file `begins` is there."""
    owner, name, break_it = DEFECTS[defect]
    whole = getattr(owner, name)

    def broken(*arguments: Any, **more: Any) -> Any:
        if Path(begins).exists():
            break_it()
        return whole(*arguments, **more)

    setattr(owner, name, broken)
