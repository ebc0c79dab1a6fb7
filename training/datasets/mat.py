"""MATLAB's files up to version 7, as annotations come in; version 7.3 is HDF5 and not read here."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

from training.datasets.folder import DatasetProblem

# What scipy raises on damaged bytes besides its own error; NotImplementedError is version 7.3.
DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    EOFError,
    NotImplementedError,
    struct.error,
    zlib.error,
)


def read_mat(file: Path, variable: str) -> Any:
    """One variable of a `.mat` file; structs give attributes, and lengths of 1 are left out.

    Raises:
        DatasetProblem: naming the file that cannot be read or lacks the variable.
    """
    # Imported here, since only three of the readers need it and it is slow to import.
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    if not file.is_file():
        raise DatasetProblem(f"{file}: no such file; unpack it there")
    try:
        found = loadmat(file, squeeze_me=True, struct_as_record=False, variable_names=[variable])
    except (MatReadError, *DAMAGE) as error:
        raise DatasetProblem(
            f"{file}: cannot be read as a MATLAB file ({error}); unpack it again"
        ) from error
    if variable not in found:
        raise DatasetProblem(f"{file}: has no variable {variable}; name the file of this data set")
    return found[variable]
