"""Defects of a served process, which begin once a file is there."""

import ctypes
import time
from pathlib import Path

import torch

from model.runtimes import OpenVinoRuntime
from model.torch_runtime import TorchRuntime
from service.engine.admission import Admission
from service.record.people import People

FOR_EVER = 3600
# Several times as long as a part of the service without work of the record may take here.
LONG = 8


def hang():
    time.sleep(FOR_EVER)


def take_long():
    time.sleep(LONG)


def hold_the_interpreter():
    # PyDLL, other than CDLL, does not let other threads run meanwhile, as a faulty library may not.
    ctypes.PyDLL(None).sleep(FOR_EVER)


def lose_the_device():
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    error.error_code = 700
    raise error


def run_out_of_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


EMBEDS = ((OpenVinoRuntime, "embed"), (TorchRuntime, "embed"))
DEFECTS = {
    "device hangs": (EMBEDS, hang),
    "device lost": (EMBEDS, lose_the_device),
    "device full": (EMBEDS, run_out_of_memory),
    "event loop hangs": (((Admission, "admit"),), hang),
    "record slow": (((People, "page"),), take_long),
    "interpreter held": (EMBEDS, hold_the_interpreter),
}


def break_service(defect, begins):
    """Give this process a defect once the file `begins` is there."""
    places, break_it = DEFECTS[defect]

    def broken(whole):
        def run(*arguments, **more):
            if Path(begins).exists():
                break_it()
            return whole(*arguments, **more)

        return run

    for owner, name in places:
        setattr(owner, name, broken(getattr(owner, name)))
