"""The choice of a device and of a number format, at run time since not every CPU has bfloat16."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from model.problems import InputProblem

if TYPE_CHECKING:
    import torch

RuntimeName = Literal["torch", "openvino"]
DtypeName = Literal["float32", "bfloat16"]
Precision = Literal["auto", "float32", "bfloat16"]
HAS_TORCH = find_spec("torch") is not None
# Major version of the oldest NVIDIA driver for each major version of CUDA.
OLDEST_DRIVERS = {"12": 525, "13": 580}
DRIVER_FILE = Path("/proc/driver/nvidia/version")
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def choose_device_name(asked: str = "auto") -> str:
    """Return the name of the device that `choose_device` chooses; works without PyTorch for `cpu`.

    Raises:
        InputProblem: there is no such device, or it needs PyTorch, which is not installed.
    """
    if not HAS_TORCH and asked not in ("auto", "cpu"):
        raise InputProblem(
            f"device {asked!r} needs PyTorch, which is not installed; pip install 'gmn-reid[gpu]' "
            "in an environment of its own, or use cpu"
        )
    return str(choose_device(asked)) if HAS_TORCH and asked != "cpu" else "cpu"


def choose_device(asked: str) -> torch.device:
    """Return the device of a name, and switch TF32 off; `auto` is the first GPU, or else the CPU.

    Raises:
        InputProblem: there is no GPU, or the name is unknown.
    """
    import torch

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise InputProblem(f"device {asked!r} is unknown; use auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        problem = find_driver_problem() or "nvidia-smi shows the driver and the GPUs"
        raise InputProblem(
            f"device {asked!r} was asked for, but no GPU is usable ({problem}); use auto or cpu"
        )
    return device


def read_driver_version() -> str | None:
    """Return the version of NVIDIA's driver, such as `580.65.06`; None if it is not loaded."""
    try:
        text = DRIVER_FILE.read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"\s(\d{3,4}(\.\d+)+)\s", text)
    return found[1] if found else None


def find_driver_problem() -> str | None:
    """Return why the driver of NVIDIA cannot serve PyTorch, in words; None if it can."""
    import torch

    cuda = torch.version.cuda
    oldest = OLDEST_DRIVERS.get(cuda.partition(".")[0]) if cuda else None
    if oldest is None:
        return None if cuda else "this PyTorch was built without CUDA"
    needed = f"PyTorch with CUDA {cuda} needs NVIDIA's driver {oldest} or newer"
    version = read_driver_version()
    if version is None:
        return f"no driver is loaded, and {needed}"
    if int(version.partition(".")[0]) < oldest:
        return f"the driver is {version}, and {needed}"
    return None


def choose_dtype(device: torch.device, asked: Precision) -> torch.dtype:
    """Return the number format; `auto` is bfloat16 if the device multiplies it in hardware."""
    import torch

    chosen = asked == "bfloat16"
    if asked == "auto":
        chosen = cpu_has_bfloat16()
        if device.type == "cuda":
            chosen = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if chosen else torch.float32


def cpu_has_bfloat16() -> bool:
    """Return whether the CPU multiplies bfloat16 in hardware; False if Linux does not tell."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return not BFLOAT16_FLAGS.isdisjoint(flags)
