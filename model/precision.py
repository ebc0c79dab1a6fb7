"""Which number format a device computes in; chosen at run time: not every CPU has bfloat16."""

from __future__ import annotations

from typing import Literal

import torch

from model.problems import InputProblem

Precision = Literal["auto", "float32", "bfloat16"]


def choose_device(asked: str = "auto") -> torch.device:
    """`auto` is the first GPU where there is one, else the CPU.

    float32 is float32 from then on: a GPU multiplies with the 10-bit mantissas of TF32 no more,
    which torch has it do in convolutions.

    Raises:
        InputProblem: when a GPU is asked for and there is none, or the name means nothing.
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
    if asked == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    return torch.bfloat16 if asked == "bfloat16" else torch.float32


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
