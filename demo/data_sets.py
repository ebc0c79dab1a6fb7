"""What the client's commands need of the trainer, which the service may not import."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from service.commands.bulk import SourceCrop


def read_spec(spec: str) -> Iterator[SourceCrop]:
    """The crops of a `KIND:PATH`, for the client's commands; drawn ones are encoded as PNG.

    Raises:
        InputProblem: naming what is wrong with the data set.
    """
    from training.datasets.registry import read_dataset

    for one in read_dataset(spec).records:
        labels = (one.identity, one.camera, one.captured_at, one.split)
        yield SourceCrop(one.source, one.content, *labels)


def summarize(*arguments: Any) -> dict[str, Any]:
    """Ranking metrics of a service's answers; see the function of the evaluation."""
    from training.evaluation import served

    return served.summarize(*arguments)
