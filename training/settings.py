"""The sections of a training recipe: what can be set, and what each setting means."""

from __future__ import annotations

from pydantic import Field

from model.preprocessing import Preprocessing
from training.parts import Section


class Augmentation(Section):
    """What a training crop goes through; probabilities 0 to 1, `pad` in pixels of the input.

    Attributes:
        resize: height and width that a crop is resized to before one of the input's size is cut out
            of it at random; null resizes it to the input's size.
        white_balance: each colour channel is multiplied by a factor of its own, as far from 1.
        gamma: the exponent of the pixels lies between 1 / (1 + gamma) and 1 + gamma.
        coarse: probability that a crop is reduced to a third to two thirds of its size and back, as
            if its camera were farther away.
    """

    resize: tuple[int, int] | None = None
    flip: float = Field(0.5, ge=0, le=1)
    pad: int = Field(10, ge=0)
    brightness: float = Field(0.2, ge=0)
    contrast: float = Field(0.15, ge=0)
    saturation: float = Field(0.1, ge=0)
    hue: float = Field(0.0, ge=0, le=0.5)
    grayscale: float = Field(0.0, ge=0, le=1)
    blur: float = Field(0.0, ge=0, le=1)
    erasing: float = Field(0.0, ge=0, le=1)
    white_balance: float = Field(0.0, ge=0, lt=1)
    gamma: float = Field(0.0, ge=0)
    coarse: float = Field(0.0, ge=0, le=1)

    def decoded(self, size: Preprocessing) -> Preprocessing:
        """How a crop is decoded: at the size out of which the input's is cut."""
        if self.resize is None:
            return size
        height, width = self.resize
        return size.model_copy(update={"height": height, "width": width})
