"""Embed crops: a few threads decode the next batch while the network computes one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from model.arrays import Floats, Pixels
from model.embedder import Embedder
from model.preprocessing import Preprocessing
from model.problems import InputProblem
from training.datasets.record import CropRecord
from training.evaluation.searches import Search

BATCH_SIZE = 64
DECODING_THREADS = 4
Read = TypeVar("Read")

Advance = Callable[[int], None]
"""Called with the number of items done since the last call."""

ProgressBar = Callable[[str, int], AbstractContextManager[Advance]]
"""Shows a bar for a description and a total; see `training.commands.common.progress_bar`."""


@contextmanager
def no_bar(description: str, total: int) -> Iterator[Advance]:  # noqa: ARG001
    """Show no progress."""
    yield lambda _: None


def embed_records(
    embedder: Embedder,
    preprocessing: Preprocessing,
    records: Sequence[CropRecord],
    bfloat16: bool = False,
    progress: Advance = lambda _: None,
) -> Floats:
    """Embed crops in evaluation mode.

    Args:
        embedder: the embedder, on any device; its mode is restored afterwards.
        preprocessing: the preprocessing that it was trained with.
        records: the crops, at least one.
        bfloat16: run the network in bfloat16 autocast; features are float32 in any case.
        progress: called after each batch with its number of crops.

    Returns:
        Features `(n, d)` float32, not of unit length, in the order of the records.

    Raises:
        InputProblem: there is no crop, or one cannot be read; the message names it.
    """
    device = next(embedder.parameters()).device
    was_training = embedder.training
    features = np.empty((len(records), embedder.config.dimension), dtype=np.float32)
    done = 0
    embedder.eval()
    # Convolutions on a processor are fastest in this layout, in which `normalise` leaves the crops.
    embedder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16),
        ):
            for crops in decoded_batches(records, preprocessing):
                inputs = preprocessing.normalise(torch.from_numpy(crops).to(device))
                features[done : done + len(crops)] = embedder(inputs).float().cpu().numpy()
                done += len(crops)
                progress(len(crops))
    finally:
        embedder.train(was_training)
    return features


class SearchFeatures(NamedTuple):
    """Features of a search's queries `(Q, d)` and gallery `(G, d)`, float32."""

    queries: Floats
    gallery: Floats

    @classmethod
    def of(
        cls,
        search: Search,
        features: Floats,
    ) -> SearchFeatures:
        """Split the features of `search.records` into queries and gallery, which may overlap."""
        return cls(features[: len(search.queries)], features[-len(search.gallery) :])


def gallery_samples(searches: Iterable[SearchFeatures]) -> Floats:
    """Return at most 100 features of each gallery, `(n, d)`, which suffice to detect a collapse."""
    samples = []
    for _, gallery in searches:
        places = np.linspace(0, len(gallery) - 1, min(100, len(gallery))).astype(int)
        samples.append(gallery[places])
    return np.concatenate(samples)


def embed_searches(
    embedder: Embedder,
    preprocessing: Preprocessing,
    searches: Mapping[str, Search],
    progress_bar: ProgressBar = no_bar,
) -> dict[str, SearchFeatures]:
    """Embed the crops of several searches, by the names of their data sets.

    Raises:
        InputProblem: a crop cannot be read; the message names it.
    """
    features = {}
    for name, search in searches.items():
        with progress_bar(f"Embedding {name}", len(search.records)) as progress:
            embedded = embed_records(embedder, preprocessing, search.records, progress=progress)
        features[name] = SearchFeatures.of(search, embedded)
    return features


def decoded_batches(
    records: Sequence[CropRecord],
    preprocessing: Preprocessing,
    batch_size: int = BATCH_SIZE,
) -> Iterator[Pixels]:
    """Yield decoded and resized crops, `(B, height, width, 3)` uint8 RGB, in the records' order.

    While one batch is in use the next is being decoded; no other batches are in memory.

    Raises:
        InputProblem: there is no crop, or one cannot be read; the message names it.
    """
    if not records:
        raise InputProblem("there is no crop to embed; name data with images in it")

    starts = range(0, len(records), batch_size)
    batches = [records[start : start + batch_size] for start in starts]
    for crops in read_ahead(lambda record: preprocessing.resize(record.decode()), batches):
        yield np.stack(crops)


def read_ahead(
    read: Callable[[CropRecord], Read],
    batches: Iterable[Sequence[CropRecord]],
) -> Iterator[list[Read]]:
    """Yield the results of `read` by batch, while a few threads read the next batch."""
    with ThreadPoolExecutor(DECODING_THREADS, "decode") as pool:
        ahead: list[Future[Read]] = []
        for batch in (*batches, ()):
            current = ahead
            ahead = [pool.submit(read, record) for record in batch]
            if current:
                yield [future.result() for future in current]
