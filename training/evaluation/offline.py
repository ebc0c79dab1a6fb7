"""Write the features of a whole data set, into one file or into shards that can be resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from model.arrays import Floats, Pixels
from model.artefact import Artefact
from model.crops.decode import decode_crop
from model.feature_file import Origin, read_feature_file
from model.precision import DtypeName
from model.preprocessing import Preprocessing
from model.problems import InputProblem
from model.runtimes import EmbeddingRuntime, Probes, RuntimeUnusable
from model.shards import SHARD, shard_name
from model.torch_runtime import TorchRuntime
from training.datasets.record import CropRecord
from training.evaluation.embedding import ProgressBar, read_ahead
from training.evaluation.files import make_folder, replacing, write_features

SHARD_CROPS = 2048
# While a batch of this size is embedded, the next one is decoded.
BATCH_CROPS = 128


class Network(NamedTuple):
    """A network that computes features.

    Attributes:
        preprocessing: the preprocessing of its input.
        embed: turns resized crops `(B, height, width, 3)` uint8 RGB into features `(B, d)` float32.
        embedder: the fingerprint of the embedder, or the name of a ready-made model.
        precision: the number format.
        runtime: the library that computes it, such as `openvino`.
    """

    preprocessing: Preprocessing
    embed: Callable[[Pixels], Floats]
    embedder: str
    precision: str = "float32"
    runtime: str = "openvino"


class Part(NamedTuple):
    """The share of one of `parts` processes, whose `number` counts from 1."""

    number: int = 1
    parts: int = 1


class Outcome(NamedTuple):
    """The outcome of embedding a data set, or a part of it.

    Attributes:
        features: the number of features computed.
        written: the number of files written.
        skipped: the number of shards that existed already.
        unreadable: names and reasons of the crops that cannot be read.
    """

    features: int
    written: int
    skipped: int
    unreadable: list[str]


def network_of(
    artefact: Artefact,
    device: torch.device,
    bfloat16: bool,
) -> Network:
    """Load an artefact's embedder into OpenVINO if possible on a CPU, else into PyTorch."""
    dtype: DtypeName = "bfloat16" if bfloat16 else "float32"
    runtime: EmbeddingRuntime | None = None
    if device.type == "cpu":
        with suppress(RuntimeUnusable):
            runtime = Probes(artefact).agreeing("openvino", dtype)
    runtime = runtime or TorchRuntime(artefact, dtype, str(device))
    description = artefact.description
    return Network(
        description.preprocessing,
        runtime.embed,
        description.embedding_fingerprint,
        runtime.dtype,
        runtime.name,
    )


def embed_to_file(
    network: Network,
    records: Sequence[CropRecord],
    path: Path,
    progress_bar: ProgressBar,
) -> Outcome:
    """Write the features of all crops to one file.

    Raises:
        InputProblem: there is no crop, or the file cannot be written.
    """
    return _write(network, _origin(network, records), {path: records}, progress_bar)


def embed_to_folder(
    network: Network,
    records: Sequence[CropRecord],
    folder: Path,
    part: Part,
    progress_bar: ProgressBar,
) -> Outcome:
    """Write the shards of a part that are not in the folder yet.

    Raises:
        InputProblem: the folder has shards of another artefact, of other crops or of another
            precision, or it cannot be written.
    """
    origin = _origin(network, records)
    make_folder(folder)
    count = -(-len(records) // SHARD_CROPS)
    shards = {
        folder / shard_name(number, count): records[number * SHARD_CROPS :][:SHARD_CROPS]
        for number in range(count)
    }
    existing = {}
    for shard in sorted(file for file in folder.iterdir() if SHARD.fullmatch(file.name)):
        # Another number of shards means another list of crops.
        stored = origin._replace(crops="")
        if shard in shards:
            file = read_feature_file(shard)
            stored = file.origin
            existing[shard] = file.unreadable
        kinds = ("artefact", "precision", "list of crops")
        for kind, known, asked in zip(kinds, stored, origin, strict=True):
            if known != asked:
                raise InputProblem(
                    f"{shard}: exists already, with another {kind}; name another folder as --out, "
                    "or remove this one"
                )
    shards_of_part = list(shards)[part.number - 1 :: part.parts]
    missing = {shard: shards[shard] for shard in shards_of_part if shard not in existing}
    outcome = _write(network, origin, missing, progress_bar)
    skipped = [shard for shard in shards_of_part if shard in existing]
    for shard in skipped:
        outcome.unreadable.extend(existing[shard])
    return outcome._replace(skipped=len(skipped))


def _origin(network: Network, records: Sequence[CropRecord]) -> Origin:
    """Return the origin of features, with a digest of the crops' names and labels in order."""
    if not records:
        raise InputProblem("there is no crop to embed; name data with images in it")
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(list(_labels(record).values())).encode())
    return Origin(network.embedder, network.precision, digest.hexdigest())


def _labels(record: CropRecord) -> dict[str, str]:
    """Return the columns of a feature file that do not depend on the content of the crop's file."""
    return {
        "paths": record.source,
        "identities": record.identity,
        "cameras": record.camera,
        "captured_at": record.captured_at.isoformat() if record.captured_at else "",
    }


def _write(
    network: Network,
    origin: Origin,
    files: Mapping[Path, Sequence[CropRecord]],
    progress_bar: ProgressBar,
) -> Outcome:
    """Write the features of the readable crops of each file."""
    size = network.preprocessing
    # If no crop can be read, this one is embedded to learn the dimension of features.
    blank = np.zeros((1, size.height, size.width, 3), np.uint8)
    embedded = 0
    left_out: list[str] = []
    with progress_bar("Embedding", sum(len(records) for records in files.values())) as progress:
        for path, records in files.items():
            parts: list[Floats] = []
            rows: list[dict[str, str]] = []
            unreadable: list[str] = []
            batches = [records[at : at + BATCH_CROPS] for at in range(0, len(records), BATCH_CROPS)]
            with replacing(path) as temporary:
                for crops in read_ahead(lambda record: _read(record, size), batches):
                    good = [crop for crop in crops if not isinstance(crop, str)]
                    unreadable += [crop for crop in crops if isinstance(crop, str)]
                    if good:
                        parts.append(network.embed(np.stack([pixels for pixels, _ in good])))
                        rows += [labels for _, labels in good]
                    progress(len(crops))
                features = np.concatenate(parts or [network.embed(blank)[:0]])
                columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
                write_features(temporary, features, columns, origin, unreadable)
            embedded += len(features)
            left_out += unreadable
    return Outcome(embedded, len(files), 0, left_out)


def _read(
    record: CropRecord,
    size: Preprocessing,
) -> tuple[Pixels, dict[str, str]] | str:
    """Return a crop's resized pixels and its columns, or the reason why it cannot be read."""
    try:
        content = record.content()
        pixels = size.resize(decode_crop(content))
    except (InputProblem, OSError) as error:
        reason = str(error).removeprefix(f"{record.source}: ")
        return f"{record.source}: {reason}"
    return pixels, {**_labels(record), "sha256": hashlib.sha256(content).hexdigest()}
