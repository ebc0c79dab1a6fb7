"""Export an artefact to ONNX graphs, and compare their outputs with PyTorch's."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model.artefact import Artefact, artefact_name, load_artefact
from model.calibration import PAIR_OPERATING_POINTS, Scoring
from model.embedder import Embedder
from model.metric_network import PairScorer, comparable_features, unit_features
from model.permitted_use import terms_of_use
from model.preprocessing import drawn_patterns
from model.problems import InputProblem
from training.evaluation.files import make_folder
from training.provenance import file_digest

EMBEDDER = "embedder.onnx"
PAIR_SCORER = "pair_scorer.onnx"
ABOUT = "preprocessing.json"
CROPS = "crops"
FEATURES = "features"
PAIR = ("first", "second")
# The largest accepted difference from PyTorch, in the units of `Parity`.
TOLERANCE = 1e-4
SCALES: dict[Scoring, str] = {
    "cosine": "cosine of the two features, -1 to 1",
    "mnet": "M-Net's logit of one person less that of two, unbounded",
}


@dataclass(frozen=True)
class Parity:
    """The largest differences between ONNX Runtime and PyTorch, on drawn patterns.

    Attributes:
        crops: the number of patterns that were embedded.
        pairs: the number of pairs of their features that were scored.
        features: the largest difference of an entry of a feature, divided by the feature's length.
        scores: the largest difference by scoring. It is divided by the largest absolute score if
            that is above 1, because scores of an M-Net reach 60, where float32 is coarse.
    """

    crops: int
    pairs: int
    features: float
    scores: dict[Scoring, float]

    def summary(self) -> str:
        """Return the differences in a clause."""
        scores = ", ".join(f"{name} {apart:.0e}" for name, apart in self.scores.items())
        return f"features differ by {self.features:.0e} of their length, scores by {scores}"


class PairScores(nn.Module):
    """Computes all scorings of an artefact for pairs of features, as the service does."""

    def __init__(self, artefact: Artefact) -> None:
        super().__init__()
        self.scorer: PairScorer | None = None
        if artefact.metric_network is not None:
            # PairScorer folds BatchNorm into M-Net's weights, in float64. Layer by layer M-Net
            # would differ from the service by more than the tolerance.
            self.scorer = PairScorer(artefact.metric_network)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        """Return uncalibrated scores `(B,)` of each scoring for features `(B, d)` and `(B, d)`."""
        cosine = (unit_features(first) * unit_features(second)).sum(dim=1)
        if self.scorer is None:
            return (cosine,)
        kind = self.scorer.kind
        difference = comparable_features(first, kind) - comparable_features(second, kind)
        return cosine, self.scorer.scores_of(difference)


class ExactInstanceNorm(nn.Module):
    """Instance normalisation that subtracts the mean of a channel twice.

    ONNX Runtime's own rounds this mean. In a channel of nearly constant value, which is divided by
    a tiny deviation, the error would become large.
    """

    def __init__(self, norm: nn.InstanceNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise maps `(B, C, h, w)`."""
        centred = maps - maps.mean((2, 3), keepdim=True)
        centred = centred - centred.mean((2, 3), keepdim=True)
        variance = centred.square().mean((2, 3), keepdim=True)
        scale = self.norm.weight.view(-1, 1, 1) / (variance + self.norm.eps).sqrt()
        return centred * scale + self.norm.bias.view(-1, 1, 1)


def for_export(embedder: Embedder) -> Embedder:
    """Copy an embedder, and replace the modules that ONNX Runtime computes inexactly."""
    copied = copy.deepcopy(embedder)
    for name, module in embedder.named_modules():
        if isinstance(module, nn.InstanceNorm2d) and module.affine:
            copied.set_submodule(name, ExactInstanceNorm(module))
    return copied.eval()


def export_onnx(file: Path, folder: Path) -> Parity:
    """Write `embedder.onnx`, `pair_scorer.onnx` and `preprocessing.json`.

    Both graphs take a batch of any size. Existing files of these names are replaced only once the
    new ones are written and agree with PyTorch.

    Args:
        file: the artefact's file.
        folder: the folder to write to; it is created if it does not exist.

    Raises:
        InputProblem: the artefact cannot be read, the packages of the extra `export` are missing,
            the folder cannot be written, the networks cannot be exported, or features or scores of
            ONNX Runtime differ from PyTorch's.
    """
    artefact = load_artefact(file)
    description = artefact.description
    size = description.preprocessing
    _require_packages()
    make_folder(folder)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as temporary:
        written = Path(temporary)
        crops = {CROPS: torch.zeros(2, 3, size.height, size.width)}
        _write_graph(written / EMBEDDER, for_export(artefact.embedder), crops, (FEATURES,))
        features = {name: torch.rand(2, description.embedder.dimension) for name in PAIR}
        scorer = PairScores(artefact).eval()
        _write_graph(written / PAIR_SCORER, scorer, features, description.scorings)
        parity = compare_with_torch(artefact, written)
        differences = (parity.features, *parity.scores.values())
        if not all(apart <= TOLERANCE for apart in differences):
            raise InputProblem(
                f"{file}: ONNX Runtime computes other numbers than PyTorch ({parity.summary()}; at "
                f"most {TOLERANCE:g} is allowed); nothing was written, use gmn serve instead"
            )
        about = _about(artefact, artefact_name(file), written, parity)
        (written / ABOUT).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n")
        for name in (EMBEDDER, PAIR_SCORER, ABOUT):
            shutil.move(written / name, folder / name)
    return parity


def compare_with_torch(artefact: Artefact, folder: Path) -> Parity:
    """Compare the graphs of a folder with the artefact's networks, on drawn patterns."""
    embedder = _session(folder / EMBEDDER)
    pair_scorer = _session(folder / PAIR_SCORER)
    preprocessing = artefact.description.preprocessing
    with torch.inference_mode():
        crops = preprocessing.normalise(torch.from_numpy(drawn_patterns(preprocessing)))
        expected = artefact.embedder(crops)
    outputs = []
    for part in (crops, crops[:1]):
        (features,) = embedder.run(None, {CROPS: part.contiguous().numpy()})
        outputs.append(features)
    expected_twice = torch.cat([expected, expected[:1]])
    difference = (torch.from_numpy(np.concatenate(outputs)) - expected_twice).abs()
    difference /= expected_twice.norm(dim=1, keepdim=True).clamp(min=1e-12)
    rows, columns = torch.triu_indices(len(expected), len(expected))
    pairs = {PAIR[0]: expected[rows].numpy(), PAIR[1]: expected[columns].numpy()}
    reference = PairScores(artefact)(expected[rows], expected[columns])
    scorings = artefact.description.scorings
    scores = {}
    for scoring, ours in zip(scorings, reference, strict=True):
        theirs = torch.from_numpy(pair_scorer.run([scoring], pairs)[0])
        largest = ours.abs().max().clamp(min=1.0)
        scores[scoring] = float((theirs - ours).abs().max() / largest)
    return Parity(len(crops), len(rows), float(difference.max()), scores)


def _session(graph: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


def _require_packages() -> None:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputProblem(
            f"gmn export needs {error.name}, which is not installed; run "
            "pip install 'gmn-reid[export]'"
        ) from error
    # Otherwise it prints a warning for every device that it does not find.
    onnxruntime.set_default_logger_severity(3)


def _write_graph(
    file: Path,
    network: nn.Module,
    examples: dict[str, Tensor],
    outputs: tuple[str, ...],
) -> None:
    """Write one graph; the first dimension of its inputs and outputs is the batch."""
    batch = torch.export.Dim("batch")
    try:
        with warnings.catch_warnings():
            # The exporter prints warnings about its own dependencies.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                tuple(examples.values()),
                dynamo=True,
                dynamic_shapes=tuple({0: batch} for _ in examples),
                input_names=list(examples),
                output_names=list(outputs),
                verbose=False,
            )
    except Exception as error:
        # The cause says which operator ONNX lacks. The exporter's own error is always the same.
        reason = error.__cause__ or error
        lines = str(reason).strip().splitlines() or [type(reason).__name__]
        raise InputProblem(
            f"{file.name} cannot be made of this artefact's networks ({lines[0]}); export one with "
            "another backbone, or use gmn serve for this one"
        ) from error
    assert program is not None
    program.save(file)


def _about(
    artefact: Artefact,
    name: str,
    folder: Path,
    parity: Parity,
) -> dict[str, Any]:
    """Describe the graphs for a program that uses them, as JSON."""
    description = artefact.description
    provenance = description.provenance
    return {
        "format_version": 1,
        "crop": {
            **description.preprocessing.model_dump(),
            "orientation": "upright: after its EXIF orientation is applied",
            "resize": "to height × width, without keeping the aspect ratio",
            "interpolation": "bilinear with antialiasing, on uint8: PIL.Image.Resampling.BILINEAR",
            "channels": "RGB",
            "divide_by": 255,
            "layout": "(batch, channel, row, column), float32",
        },
        "embedder": {
            "file": EMBEDDER,
            "sha256": file_digest(folder / EMBEDDER),
            "input": CROPS,
            "output": FEATURES,
            "dimension": description.embedder.dimension,
            "unit_length": False,
        },
        "pair_scorer": {
            "file": PAIR_SCORER,
            "sha256": file_digest(folder / PAIR_SCORER),
            "inputs": PAIR,
            "outputs": {
                scoring: {
                    "scale": SCALES[scoring],
                    "calibrated": False,
                    "thresholds": {
                        point: description.calibration.scorings[scoring].pair_threshold(far)
                        for point, far in PAIR_OPERATING_POINTS.items()
                    },
                }
                for scoring in description.scorings
            },
            "default": description.default_scoring,
        },
        "artefact": {
            "name": name,
            **description.model_dump(include={"embedding_fingerprint", "artefact_fingerprint"}),
        },
        "provenance": {
            "terms": terms_of_use(provenance),
            "data": [data.model_dump(include={"name", "terms"}) for data in provenance.data],
            "sources": [
                source.model_dump(include={"role", "name", "sha256", "documented_data", "terms"})
                for source in provenance.sources
            ],
            "commit": provenance.commit,
        },
        "parity": asdict(parity),
    }
