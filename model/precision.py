"""Which number format a device computes in; chosen at run time: not every CPU has bfloat16."""

from __future__ import annotations

from typing import Literal

import torch

from model.problems import InputProblem

Precision = Literal["auto", "float32", "bfloat16"]


def choose_device(asked: str = "auto") -> torch.device:
    """`auto` is the first GPU where there is one, else the CPU; switches TF32 off.

    Raises:
        InputProblem: when a GPU is requested and there is none, or the name is unknown.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise InputProblem(f"device {asked!r} is unknown; use auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputProblem(f"device {asked!r} was asked for, but no GPU is usable; use auto or cpu")
    return device


def choose_dtype(device: torch.device, asked: Precision = "auto") -> torch.dtype:
    """`auto` is bfloat16 where the device multiplies it in hardware, else float32."""
    if asked != "auto":
        return torch.bfloat16 if asked == "bfloat16" else torch.float32
    if device.type == "cuda":
        supported = bool(torch.cuda.is_bf16_supported(including_emulation=False))
    else:
        capabilities = torch.cpu.get_capabilities()
        supported = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return torch.bfloat16 if supported else torch.float32
