"""The crops of a data set as the client's commands take them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from service.commands.bulk import SourceCrop


def read_spec(spec: str) -> Iterator[SourceCrop]:
    """The crops of a `KIND:PATH`, for the client's commands; drawn ones are encoded as PNG.

    Raises:
        InputProblem: naming what is wrong with the data set.
    """
    from training.datasets.registry import read_dataset

    for record in read_dataset(spec).records:
        read = record.path.read_bytes if record.path is not None else partial(_png, record.decode)
        yield SourceCrop(
            record.source, read, record.identity, record.camera, record.captured_at, record.split
        )


def _png(decode: Callable[[], Any]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(decode()).save(file, "PNG")
    return file.getvalue()
