"""The cost of a request in megapixels: known from its headers, before anything is decoded.

The unit is a megapixel that is decoded. Prices follow time and memory on one core: a megapixel
takes 4 to 48 ms to decode and 118 to 284 ms to encode as PNG (`bench.costs` of revision 4f53b8d);
an image takes 5 ms (`small`) or 14 ms (`bundled`) to embed (`gmn bench embed`), and a pair 2 µs
(`gmn bench pairs`), or 20 µs beside other work.
"""

from __future__ import annotations

from collections.abc import Sequence

from model.crops.decode import CropProblem, announced_pixels
from model.crops.frames import FrameCrop, ImageFile

MEGAPIXEL = 1_000_000
# Work above this size runs in a separate pool, so that small crops never wait for it.
LARGE_PIXELS = 2_000_000
# A frame stays in memory until the crops of its boxes are embedded.
PER_FRAME_MEGAPIXEL = 2.0
# Priced below its actual time: only enrollments encode cut crops, and they do so in the large pool.
PER_CUT_MEGAPIXEL = 2.0
PER_IMAGE = 0.5
PER_PAIR = 0.001
# Price of comparing one sighting with one crop of a watch list: 250,000 comparisons took 32 ms for
# one sighting and 69 ms for sixteen together.
PER_COMPARISON = 1e-5
# Price of a result without and with its vector, as objects and as JSON: 3 kB and 40 kB.
PER_RESULT = 0.002
PER_VECTOR = 0.01


def pixels_of(image: ImageFile, max_pixels: int) -> int:
    """Return the number of pixels to decode or cut for an image; 0 if the image is refused.

    Args:
        image: a file, a crop of a frame, or a problem.
        max_pixels: limit of one image, assumed if the header cannot be read.
    """
    if isinstance(image, CropProblem):
        return 0
    if isinstance(image, FrameCrop):
        frame = pixels_of(image.frame.file, max_pixels)
        return min(frame, max(0, image.width) * max(0, image.height))
    announced = announced_pixels(image)
    if announced is None:
        return max_pixels
    return 0 if announced > max_pixels else announced


def images_cost(images: Sequence[ImageFile], max_pixels: int) -> float:
    """Return the cost of decoding, cutting and embedding images; the arguments of `pixels_of`."""
    cost = PER_IMAGE * len(images)
    frames = {image.frame.file for image in images if isinstance(image, FrameCrop)}
    cost += sum(PER_FRAME_MEGAPIXEL * pixels_of(frame, max_pixels) for frame in frames) / MEGAPIXEL
    for image in images:
        price = PER_CUT_MEGAPIXEL if isinstance(image, FrameCrop) else 1.0
        cost += price * pixels_of(image, max_pixels) / MEGAPIXEL
    return cost


def search_cost(images: int, depth: int, results: int, with_vectors: bool) -> float:
    """Return the cost of scoring and answering a search.

    Args:
        images: of the query; each is compared with every candidate.
        depth: candidates that M-Net scores; 0 for a search by cosine.
        results: of all answers.
    """
    per_result = PER_RESULT + PER_VECTOR if with_vectors else PER_RESULT
    return PER_PAIR * max(1, images) * depth + per_result * results
