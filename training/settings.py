"""The sections of a training recipe: what can be set, and what each setting means."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from model.preprocessing import Preprocessing
from training.losses.reid import TripletForm


class Section(BaseModel):
    """Settings that belong together; a setting that does not exist is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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


class GradientRegulariser(Section):
    """MSGR, the multi-scale gradient regulariser of MSFL.

    Attributes:
        weight: λ, 0 switches it off; in the adversarial form σ, the perturbation's size.
        stages: whose outputs are regularised: 0 is the input, 1 to 4 the backbone's stages.
        norm: q, of a crop's gradient: 1, 2 or inf.
        exponent: r, of that norm; 1 is the first-order bound on the loss under perturbation.
        form: `penalty` adds the term; `adversarial` trains on perturbed features in its stead.
    """

    weight: float = Field(0.0, ge=0)
    stages: tuple[Annotated[int, Field(ge=0, le=4)], ...] = Field((1, 2), min_length=1)
    norm: Literal[1, 2, "inf"] = 2
    exponent: float = Field(2.0, ge=1)
    form: Literal["penalty", "adversarial"] = "penalty"

    @field_validator("norm", mode="before")
    @classmethod
    def _infinity_by_name(cls, norm: object) -> object:
        return "inf" if norm == math.inf else norm

    @field_validator("stages")
    @classmethod
    def _once_from_the_input_on(cls, stages: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(stages)))


class Losses(Section):
    """Weights of the terms (0 switches one off) and their own settings.

    Attributes:
        identity_form: `softmax` classifies by a linear layer; `margin` by cosines to class weights,
            of which the right one is lowered by `identity_margin` and all are multiplied by
            `identity_scale` (CosFace).
        label_smoothing: of the softmax form.
        triplet_form: what L_tri compares: `euclidean` distances of features, or 1 − `cosine`.
        margin: of L_tri, in units of its distance.
        anchor: weight of 1 − cosine between a crop's embedding and the one that the initial
            weights give it; they must be of a whole embedder.
        perturbation_from_epoch: the epoch, counted from 0, from which DP is on; null is never.
    """

    identity: float = Field(1.0, ge=0)
    triplet: float = Field(1.0, ge=0)
    gmn: float = Field(1.0, ge=0)
    pic: float = Field(0.1, ge=0)
    anchor: float = Field(0.0, ge=0)
    identity_form: Literal["softmax", "margin"] = "softmax"
    identity_scale: float = Field(30.0, gt=0)
    identity_margin: float = Field(0.3, ge=0, lt=1)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    triplet_form: TripletForm = "euclidean"
    margin: float = Field(0.3, ge=0)
    perturbation_from_epoch: int | None = Field(10, ge=0)
    gradient_regulariser: GradientRegulariser = GradientRegulariser()

    def perturbs(self, epoch: int) -> bool:
        """Whether DP is on in an epoch, counted from 0."""
        start = self.perturbation_from_epoch
        return start is not None and epoch >= start


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


class MetricFit(Section):
    """M-Net fitted anew over the embedder when training is over; the embedder stays as it is.

    Attributes:
        steps: how many; 0 keeps the M-Net that was trained together with the embedder.
        learning_rate: of the first step; it falls to 0 along a cosine.
        cosine_anchor: weight of what keeps M-Net's scores near the cosine.
        cosine_weight: how many standard deviations of the cosine are added in the end to one of
            M-Net's score; more is safer under other cameras, and changes less.
        crops: about so many of each data set take part at most, whole people.
        views: as how many cameras might show it each crop is embedded.
        augmentation: what another camera changes.
    """

    steps: int = Field(0, ge=0)
    learning_rate: float = Field(1e-4, gt=0)
    cosine_anchor: float = Field(0.3, ge=0)
    cosine_weight: float = Field(3.0, ge=0)
    crops: int = Field(2500, ge=2)
    views: int = Field(3, ge=1)
    augmentation: Augmentation = Augmentation(
        pad=12,
        brightness=0.0,
        contrast=0.3,
        saturation=0.5,
        white_balance=0.25,
        gamma=0.5,
        coarse=0.4,
    )


class Distillation(Section):
    """What a student learns from teachers, beside the labels; off while no teacher is named.

    Attributes:
        teachers: files of ready-made models (`.xml`, `.onnx`) or artefacts (`.safetensors`).
        cache: folder that keeps their features from run to run; the run's own where it is empty.
        feature: weight of 1 − cosine between a teacher's feature and a projection of the student's.
        relation: weight of the divergence between whom a crop resembles in its batch.
        pair: weight of the same for M-Net's scores.
        temperature: of these resemblances.
    """

    teachers: tuple[str, ...] = ()
    cache: str = ""
    feature: float = Field(1.0, ge=0)
    relation: float = Field(1.0, ge=0)
    pair: float = Field(0.0, ge=0)
    temperature: float = Field(0.1, gt=0)


class HeldOut(Section):
    """Identities kept out of training, chosen by a seeded hash of (data set, identity).

    Attributes:
        fraction: share of each data set's people. With 0 the run trains on all, as papers do:
            it ends with a checkpoint, which `gmn finish --data` calibrates on other people.
    """

    fraction: float = Field(0.15, ge=0, lt=1)
    seed: int = 0


class Validation(Section):
    """Figures on held-out people while training; the best weights are kept, no weight changes.

    Attributes:
        every_epochs: measure after every so many epochs and after the last one; 0 never does.
        every_steps: measure after every so many steps as well; null does not.
        identities: at most so many held-out people of each data set, chosen by a hash.
        crops: at most so many crops of a person under a camera.
    """

    every_epochs: int = Field(1, ge=0)
    every_steps: int | None = Field(None, ge=1)
    identities: int = Field(100, ge=2)
    crops: int = Field(2, ge=1)
