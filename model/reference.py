"""An artefact's reference: vectors of nobody, which lie among a gallery's as a stranger's would.

Each is the sum of two training people's unit vectors. They are stored as int8, a quarter of
float32, and each row fills the range, so that cosines keep three digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.arrays import Floats
from model.problems import ArtefactProblem

REFERENCE = "reference.vectors"


def stored_reference(vectors: Floats) -> dict[str, NDArray[np.int8]]:
    """Return the tensor of vectors `(n, d)`, none of which is zero, by its name in a file."""
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    scaled = np.round(127.0 * vectors / largest)
    return {REFERENCE: scaled.astype(np.int8)}


def read_reference(
    tensors: Mapping[str, NDArray[Any]],
    dimension: int,
    source: str,
) -> Floats | None:
    """Read the unit vectors `(n, d)` among a file's tensors; None where there are none.

    Raises:
        ArtefactProblem: naming the `source`, the vectors are not those of a reference.
    """
    stored = tensors.get(REFERENCE)
    if stored is None:
        return None
    is_matrix = stored.ndim == 2 and stored.shape[1] == dimension
    if stored.dtype != np.int8 or not is_matrix or not stored.any(axis=1).all():
        raise ArtefactProblem(
            f"{source}: its {REFERENCE} is not int8 (n, {dimension}) with numbers in every row; "
            "write it again with gmn artefact add-reference"
        )
    vectors = stored.astype(np.float32)
    lengths = np.linalg.norm(
        vectors,
        axis=1,
        keepdims=True,
    )
    return vectors / lengths
