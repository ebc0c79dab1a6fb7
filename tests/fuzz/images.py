"""Decoding an image: `python -m tests.fuzz.images --seconds 120`."""

import atheris

with atheris.instrument_imports(include=["PIL", "model.crops"]):
    from model.crops.decode import CropLimits, CropProblem, decode_crop

from tests.fuzz.harness import fuzz
from tests.hostile.corpus import hostile_images

LIMITS = CropLimits(max_pixels=1_000_000)


def decode(data):
    assert decode_crop(data, LIMITS).mode == "RGB"


if __name__ == "__main__":
    fuzz(
        decode,
        (hostile.data for hostile in hostile_images(0) if len(hostile.data) < 20_000),
        CropProblem,
    )
