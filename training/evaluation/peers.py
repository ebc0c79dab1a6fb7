"""Ready-made models in OpenVINO IR or ONNX, which are evaluated beside artefacts, by cosine.

The suffix of the file decides the input, float32 `(1, 3, 256, 128)`: an `.xml` (Open Model Zoo)
takes BGR from 0 to 255, an `.onnx` (torchreid) RGB normalised by ImageNet's mean and deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.arrays import Floats, Pixels
from model.openvino_loading import compiled, load_openvino
from model.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from model.problems import InputProblem
from model.provenance import Provenance, WeightSource
from training.datasets.record import CropRecord
from training.evaluation.embedding import Advance, decoded_batches
from training.provenance import file_digest
from training.recipe import HeldOut

SUFFIXES = (".xml", ".onnx")
INPUT = Preprocessing(height=256, width=128)


def read_model(file: Path) -> Any:
    """Return the `openvino.Model` of an IR's `.xml` or an `.onnx`.

    Raises:
        InputProblem: OpenVINO is not installed, or cannot read the file.
    """
    try:
        return load_openvino().Core().read_model(str(file))
    except ModuleNotFoundError as error:
        raise InputProblem(
            f"{file}: needs the package openvino; run pip install 'gmn-reid[train]'"
        ) from error
    except RuntimeError as error:
        raise InputProblem(
            f"{file}: OpenVINO cannot read it ({str(error).strip().splitlines()[-1]}); name an "
            "undamaged .onnx, or .xml with its .bin beside it"
        ) from error


class Peer:
    """A model from a file, run by OpenVINO on the CPU.

    Attributes:
        name: the file's name without its suffix.
        artefact_fingerprint, embedding_fingerprint: the SHA-256 of its file or files.
        provenance: an almost empty provenance. `held_out` has the recipes' default, so that the
            model can be measured on the same people as their artefacts.

    Raises:
        InputProblem: OpenVINO is not installed, or the file is no model with this input.
    """

    def __init__(self, file: Path) -> None:
        self.name = file.stem
        self._bgr = file.suffix == ".xml"
        if file.suffix not in SUFFIXES or not file.is_file():
            raise InputProblem(
                f"{file}: is no ready-made model; name an OpenVINO .xml or an .onnx file"
            )
        model = read_model(file)
        self.artefact_fingerprint = self.embedding_fingerprint = file_digest(file)
        self.provenance = Provenance(
            data=(),
            terms="",
            recipe={},
            command="",
            commit=None,
            created_at="",
            held_out=HeldOut().model_dump(include={"fraction", "seed"}),
            initial_weights=file.name,
            metrics={},
            sources=(
                WeightSource(
                    role="initial weights", name=file.name, sha256=self.artefact_fingerprint
                ),
            ),
        )
        try:
            model.reshape([1, 3, INPUT.height, INPUT.width])
            # By default OpenVINO computes in bfloat16 on some CPUs, but figures should not depend
            # on the CPU.
            self._network = compiled(model, {"INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as error:
            raise InputProblem(
                f"{file}: OpenVINO cannot run it on one crop of 256×128 "
                f"({str(error).strip().splitlines()[-1]}); name a person re-identification model"
            ) from error

    def embed(
        self,
        records: Sequence[CropRecord],
        progress: Advance = lambda _: None,
    ) -> Floats:
        """Embed crops: `(n, d)` float32, in the order of the records."""
        features = []
        for crops in decoded_batches(records, INPUT):
            features.append(self.embed_crops(crops))
            progress(len(crops))
        return np.concatenate(features)

    def embed_crops(self, crops: Pixels) -> Floats:
        """Embed one or more crops `(B, 256, 128, 3)` uint8 RGB: `(B, d)` float32."""
        outputs = [self._network(crop[None])[0] for crop in self._inputs(crops)]
        return np.stack([np.asarray(output, np.float32).reshape(-1) for output in outputs])

    def _inputs(self, crops: Pixels) -> Floats:
        """Return the network's input `(B, 3, 256, 128)` of crops `(B, 256, 128, 3)`."""
        if self._bgr:
            values = crops[..., ::-1].astype(np.float32)
        else:
            mean = np.array(IMAGENET_MEAN, dtype=np.float32)
            std = np.array(IMAGENET_STD, dtype=np.float32)
            values = (crops.astype(np.float32) / 255.0 - mean) / std
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))
