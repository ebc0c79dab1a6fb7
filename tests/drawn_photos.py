"""Photos with drawn people, in whom the detector sees people."""

import functools
import io

from PIL import Image

from demo.data_sets import read_spec
from demo.drawn_videos import BACKGROUND
from tests.outside import encoded


@functools.cache
def drawn_people():
    """Return the pictures of twelve drawn people."""
    crops = read_spec("synthetic:3,identities=12,domains=1,cameras=1,crops=1").crops
    return [Image.open(io.BytesIO(crop.read())).convert("RGB") for crop in crops]


def photo_of(count):
    """Return a photo with so many people side by side, three at most, as a JPEG."""
    photo = Image.new("RGB", (1000, 600), BACKGROUND)
    for number, person in enumerate(drawn_people()[:count]):
        photo.paste(person.resize((200, 400), Image.Resampling.LANCZOS), (100 + 300 * number, 100))
    return encoded(photo, "JPEG", quality=92)
