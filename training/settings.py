"""The sections of a training recipe: what can be set, and what each setting means."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from model.preprocessing import Preprocessing
from training.parts import Section


class Sampling(Section):
    """PK sampling: `identities` (P) × `images` (K) crops a batch, domains mixed.

    Attributes:
        order: what an epoch is made of. `crops`: each identity's crops, K at a time. `identities`:
            each identity once, its batch filled up with others at random, as MSFL's paper has it.
            `domains`: each batch of one domain, the domains by turns.
        hard: share of the batches that hold people who look alike: one person, and P − 1 of the
            2(P − 1) people of the same domain with the nearest features.
        hard_every: after how many epochs the features are taken anew; with 0 those of the starting
            networks decide throughout.
        across_cameras: whether a person's K crops are of as many cameras as there are.
        identities_per_set: how many people of each data set take part in training at most, chosen
            by a hash with the seed of `held_out`; null takes all. People held out are not counted.
        recombined: how many people are added to each photographed set, put together of the upper
            half of one training person and the lower half of another.
    """

    identities: int = Field(16, ge=2)
    images: int = Field(4, ge=2)
    order: Literal["crops", "identities", "domains"] = "crops"
    hard: float = Field(0.0, ge=0, le=1)
    hard_every: int = Field(0, ge=0)
    across_cameras: bool = False
    identities_per_set: int | None = Field(None, ge=2)
    recombined: int = Field(0, ge=0)


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


class Optimisation(Section):
    """Optimiser and schedule; epochs are counted from 0, the warm-up is linear from 1%.

    Attributes:
        optimiser: `adamw` decays weights beside the gradient, except in norms and biases;
            `adam` and `sgd` add the decay of every weight to its gradient.
        head_multiplier: of the rate of what starts from random weights.
        backbone_multiplier: of the rate of the backbone, and of the embedder's other parts where
            the initial weights hold them.
        layer_decay: stage k of the backbone (1 to 4, the stem counts to 1) has the last stage's
            rate times layer_decay^(4 − k).
        frozen_stages: how many of the backbone's stages keep their weights and BatchNorm
            statistics, from the first on.
        micro_batch: how many crops go through the network at a time, so that a batch fits into less
            memory; null takes all. Every loss still sees the whole batch. The network embeds each
            crop twice, and its BatchNorm has the statistics of a micro-batch.
        weight_average: decay of an average of the weights over the steps, which the artefact is
            then written from; 0 switches it off.
    """

    optimiser: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(3.5e-4, gt=0)
    head_multiplier: float = Field(1.0, gt=0)
    backbone_multiplier: float = Field(1.0, gt=0)
    layer_decay: float = Field(1.0, gt=0, le=1)
    frozen_stages: int = Field(0, ge=0, le=3)
    weight_decay: float = Field(5e-4, ge=0)
    epochs: int = Field(60, ge=1)
    warm_up_epochs: float = Field(10.0, ge=0)
    schedule: Literal["steps", "cosine"] = "steps"
    milestones: tuple[int, ...] = (30, 50)
    gamma: float = Field(0.1, gt=0, le=1)
    micro_batch: int | None = Field(None, ge=2)
    weight_average: float = Field(0.0, ge=0, lt=1)
