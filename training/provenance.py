"""The provenance of an artefact: data, terms, inherited weights, fingerprints of crops."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model.arrays import Codes
from model.artefact import Artefact, load_artefact, resolve_artefact
from model.problems import InputProblem
from model.provenance import Provenance, TrainingData, WeightSource
from training.backbone_weights import timm_weights
from training.datasets.drawn import DRAWN
from training.datasets.record import CropRecord, Dataset
from training.recipe import Recipe

# An artefact stores at most this many fingerprints of 8 bytes; of more crops it has a sample.
MOST_FINGERPRINTS = 65_536
# The owner of such data chooses its names, so that they mean something else on another site.
NAMED_BY_THEIR_OWNER = ("manifest", "folder")
CROPS_TENSOR = "training.crops"
PEOPLE_TENSOR = "training.people"


@dataclass(frozen=True)
class TrainingFingerprints:
    """Fingerprints of the training crops and people of an artefact, 8 bytes each.

    Attributes:
        crops: fingerprints of crops, `(n,)` int64, ascending; of a random sample if there were very
            many crops.
        people: fingerprints of people, from data sets whose identities are the same at every site.
    """

    crops: Codes = field(default_factory=lambda: np.empty(0, np.int64))
    people: Codes = field(default_factory=lambda: np.empty(0, np.int64))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the tensors to store in an artefact; empty ones are left out."""
        named = {CROPS_TENSOR: self.crops, PEOPLE_TENSOR: self.people}
        return {name: values for name, values in named.items() if len(values)}

    @classmethod
    def of(cls, artefact: Artefact) -> TrainingFingerprints:
        """Return the fingerprints of an artefact; one whose data nobody knows has none."""
        none = np.empty(0, np.int64)
        stored = artefact.tensors
        return cls(stored.get(CROPS_TENSOR, none), stored.get(PEOPLE_TENSOR, none))


def describe_training(
    recipe: Recipe,
    datasets: Sequence[Dataset],
    records: Sequence[CropRecord],
    command: str,
) -> tuple[Provenance, TrainingFingerprints]:
    """Return an artefact's provenance, still without metrics, and its training fingerprints.

    The `records` are the training crops of the `datasets`. The stored command line has shortened
    paths.

    Raises:
        InputProblem: a crop, initial weights or a teacher cannot be read; the message names it.
    """
    sources, inherited = weight_sources(recipe)
    data = []
    crops: set[int] = set()
    people: set[int] = set()
    for dataset in datasets:
        training_crops = [record for record in records if record.dataset == dataset.name]
        identities = {record.identity for record in training_crops}
        splits = sorted({record.split for record in training_crops if record.split})
        fingerprints = {crop_fingerprint(record) for record in training_crops}
        crops |= fingerprints
        people |= person_fingerprints(dataset, identities).keys()
        # The version that was read does not always follow from the spec.
        version = f" ({dataset.version})" if dataset.version else ""
        data.append(
            TrainingData(
                name=dataset.name,
                spec=without_folders(dataset.spec) + version,
                terms=dataset.terms,
                crops=len(training_crops),
                identities=len(identities),
                cameras=len({(record.domain, record.camera) for record in training_crops}),
                splits=dataset.training_splits or tuple(splits) or None,
                fingerprints=len(fingerprints),
            )
        )
    stored = recipe.model_dump(mode="json")
    # Folders exist on one machine only, and are private.
    stored["initial_weights"] = Path(recipe.initial_weights).name
    stored["distillation"]["teachers"] = [Path(file).name for file in recipe.distillation.teachers]
    stored["distillation"]["cache"] = ""
    terms = [recipe.terms] if recipe.terms else [dataset.terms for dataset in datasets]
    provenance = Provenance(
        data=tuple(data),
        terms=joined_terms(terms + [source.terms for source in sources]),
        recipe=stored,
        command=command,
        commit=current_commit(),
        created_at=current_time(),
        held_out=recipe.held_out.model_dump(),
        initial_weights=Path(recipe.initial_weights).name,
        metrics={},
        sources=sources,
    )
    return provenance, fingerprints_of(crops, people, inherited)


def weight_sources(
    recipe: Recipe,
) -> tuple[tuple[WeightSource, ...], tuple[TrainingFingerprints, ...]]:
    """Return the sources of a run's weights: initial weights and teachers, and their sources.

    Returns:
        The sources, and the training fingerprints of each artefact among them.

    Raises:
        InputProblem: initial weights or a teacher cannot be read; the message names the file.
    """
    inherited = [inherited_weights("teacher", word) for word in recipe.distillation.teachers]
    if recipe.initial_weights != "none":
        start = inherited_weights(
            "initial weights",
            recipe.initial_weights,
            recipe.initial_weights_data,
            recipe.initial_weights_terms,
            recipe.embedder.backbone,
        )
        inherited.insert(0, start)
    sources = {source: None for weights, _ in inherited for source in weights}
    return tuple(sources), tuple(fingerprints for _, fingerprints in inherited)


def inherited_weights(
    role: Literal["initial weights", "teacher"],
    word: str,
    documented_data: tuple[str, ...] = (),
    terms: str = "",
    backbone: str = "",
) -> tuple[tuple[WeightSource, ...], TrainingFingerprints]:
    """Return the sources and fingerprints that an artefact inherits from weights.

    Args:
        role: the role of the weights.
        word: `torchvision`, perhaps with the name of its weights, `timm`, the name or file of an
            artefact, or any other file of weights.
        documented_data: the training data that the publisher of the weights names.
        terms: the terms of use of the weights, in addition to those stated by an artefact.
        backbone: the backbone, which decides the weights of timm.

    Returns:
        The source, followed by the sources that an artefact names; and the training fingerprints
        of an artefact.

    Raises:
        InputProblem: a file cannot be read; the message names it.
    """
    sha256 = None
    if word.partition(":")[0] == "torchvision":
        name = word
        documented_data = documented_data or ("ImageNet",)
    elif word == "timm":
        # The tag abbreviates the training data, which may be more than ImageNet, so that they do
        # not count as documented.
        name, licence = timm_weights(backbone)
        terms = terms or licence
    else:
        file = resolve_artefact(word)
        name = file.name
        sha256 = file_digest(file)
    source = WeightSource(
        role=role,
        name=name,
        documented_data=documented_data,
        terms=terms,
        sha256=sha256,
    )
    if not name.endswith(".safetensors"):
        return (source,), TrainingFingerprints()
    artefact = load_artefact(file)
    provenance = artefact.description.provenance
    documented = dict.fromkeys(documented_data)
    if not provenance.data and all(earlier.is_documented for earlier in provenance.sources):
        # The artefact was imported. Its weights were trained on the data of its sources.
        for earlier in provenance.sources:
            documented |= dict.fromkeys(earlier.documented_data)
    update = {
        "data": provenance.data,
        "documented_data": tuple(documented),
        "terms": joined_terms([provenance.terms, terms]),
    }
    return (
        (source.model_copy(update=update), *provenance.sources),
        TrainingFingerprints.of(artefact),
    )


def fingerprints_of(
    crops: Iterable[int],
    people: Iterable[int] = (),
    inherited: Sequence[TrainingFingerprints] = (),
) -> TrainingFingerprints:
    """Join fingerprints with other artefacts', and keep `MOST_FINGERPRINTS` of crops and people."""
    all_crops = [np.fromiter(crops, np.int64), *(source.crops for source in inherited)]
    all_people = [np.fromiter(people, np.int64), *(source.people for source in inherited)]
    # The lowest numbers are a random sample, also of several samples that are joined.
    return TrainingFingerprints(
        np.unique(np.concatenate(all_crops))[:MOST_FINGERPRINTS],
        np.unique(np.concatenate(all_people))[:MOST_FINGERPRINTS],
    )


def fingerprint(content: bytes) -> int:
    """Return the first 8 bytes of the SHA-256 as a signed integer."""
    return digest_fingerprint(hashlib.sha256(content).digest())


def digest_fingerprint(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big", signed=True)


def crop_fingerprint(record: CropRecord) -> int:
    """Return the fingerprint of a crop's file, or of its pixels if it has no file of its own.

    Raises:
        InputProblem: the file cannot be read; the message names it.
    """
    if record.path is not None and record.load is None and record.pixels is None:
        try:
            return fingerprint(record.path.read_bytes())
        except OSError as error:
            raise InputProblem(
                f"{record.source}: cannot be read ({error.strerror}); complete the data set"
            ) from error
    pixels = np.asarray(record.decode())
    return fingerprint(repr(pixels.shape).encode() + pixels.tobytes())


def person_fingerprints(dataset: Dataset, identities: Iterable[str]) -> dict[int, str]:
    """Return the identity of each person by the fingerprint of identity and data set.

    The result is empty for own data, whose identities mean other people elsewhere.
    """
    source = _known_source(dataset.spec)
    if source is None:
        return {}
    return {fingerprint(f"{source}\0{identity}".encode()): identity for identity in identities}


def _known_source(spec: str) -> str | None:
    """Return a name that stands for the same people everywhere; None for own data.

    It is the kind of the data set, with the seed of drawn people.
    """
    kind, _, rest = spec.partition(":")
    if kind in NAMED_BY_THEIR_OWNER:
        return None
    return f"{kind}:{rest.partition(',')[0].strip()}" if kind in DRAWN else kind


def joined_terms(terms: Iterable[str]) -> str:
    """Join terms of use to one text, without repetitions."""
    joined = ""
    for text in terms:
        if text not in joined:
            joined = f"{joined} {text}".strip()
    return joined


def file_digest(file: Path, remedy: str = "name the weights' own file") -> str:
    """Return the SHA-256 of a file of weights; an OpenVINO model's is over `.xml` and `.bin`.

    Args:
        file: the file of weights.
        remedy: the end of the error message.

    Raises:
        InputProblem: the file cannot be read; the message names it.
    """
    parts = [file, file.with_suffix(".bin")] if file.suffix == ".xml" else [file]
    digest = hashlib.sha256()
    try:
        for part in parts:
            digest.update(part.read_bytes())
    except OSError as error:
        raise InputProblem(f"{part}: cannot be read ({error.strerror}); {remedy}") from error
    return digest.hexdigest()


def command_line() -> str:
    """Return the command line of this process, with shortened paths, as an artefact stores it."""
    return "gmn " + shlex.join(without_folders(word) for word in sys.argv[1:])


def without_folders(word: str) -> str:
    """Shorten the paths in a word of a command line to their last two names.

    Artefacts are passed on, but the folders of the machine that made them are private.
    """
    # The path is the part after the last "=" or ":"; after the "=" of a spec's option is none.
    marks = [mark for mark in "=:" if mark in word and "/" in word.rpartition(mark)[2]]
    if not marks and ("/" not in word or "=" in word or ":" in word):
        return word
    head, separator, path = word.rpartition(marks[0]) if marks else ("", "", word)
    return f"{head}{separator}{'/'.join(Path(path).parts[-2:]).lstrip('/')}"


def current_time() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def current_commit(folder: Path = Path(__file__).parent) -> str | None:
    """Return the commit of a git checkout, with `-dirty` if tracked files differ; else None."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.check_output(
            command,
            cwd=folder,
            stderr=subprocess.DEVNULL,
            text=True,
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return None
