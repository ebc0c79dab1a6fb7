"""A training recipe: one frozen configuration, read from TOML, overridden by `--set key=value`."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from model.embedder import EmbedderConfig
from model.metric_network import MetricNetworkConfig
from model.precision import Precision
from model.preprocessing import Preprocessing
from model.problems import InputProblem
from training.losses.triplet import TripletForm
from training.published import Published

TrainingPrecision = Precision | Literal["float16"]
# What may differ between a run and its continuation, since no weight depends on it.
INDECISIVE = {
    *("name", "description", "terms", "published", "workers", "cache_megabytes", "refuse_worse"),
    *("log_every_steps", "checkpoint_every_steps", "validation"),
    *("initial_weights_data", "initial_weights_terms"),
}
RECIPES = Path(__file__).parent / "recipes"
# Keys for which the word none means that there is no such thing; elsewhere it is a text.
OPTIONAL = (
    "perturbation_from_epoch",
    "identities_per_set",
    "micro_batch",
    "every_steps",
    "multiscale",
    "head",
    "resize",
)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sampling(_Section):
    """PK sampling: `identities` (P) × `images` (K) crops a batch, domains mixed.

    Attributes:
        order: what an epoch is made of. `crops`: each identity's crops, K at a time. `identities`:
            each identity once, its batch filled up with others at random, as MSFL's paper has it.
            `domains`: each batch of one domain, the domains by turns.
        hard: share of the batches that hold people who look alike: somebody, and P − 1 of the
            2(P − 1) people of the same domain with the nearest features.
        hard_every: after how many epochs the features are taken anew; with 0 those of the starting
            networks decide throughout.
        across_cameras: whether a person's K crops are of as many cameras as there are.
        identities_per_set: how many people of each data set take part in training at most, chosen
            by a hash with the seed of `held_out`; null takes everybody. Nobody held out is touched.
        recombined: how many people are added to each photographed set, put together of the upper
            half of one who is trained on and the lower half of another.
    """

    identities: int = Field(16, ge=2)
    images: int = Field(4, ge=2)
    order: Literal["crops", "identities", "domains"] = "crops"
    hard: float = Field(0.0, ge=0, le=1)
    hard_every: int = Field(0, ge=0)
    across_cameras: bool = False
    identities_per_set: int | None = Field(None, ge=2)
    recombined: int = Field(0, ge=0)


class Augmentation(_Section):
    """What a training crop goes through; probabilities 0 to 1, `pad` in pixels of the input.

    Attributes:
        resize: height and width that a crop is resized to before one of the input's size is cut out
            of it at random; null resizes it to the input's size.
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


class GradientRegulariser(_Section):
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


class Losses(_Section):
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


class Optimisation(_Section):
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


class Distillation(_Section):
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


class HeldOut(_Section):
    """Identities kept out of training, chosen by a seeded hash of (data set, identity).

    Attributes:
        fraction: share of each data set's people. With 0 everybody is trained on, as papers do:
            the run ends with a checkpoint, which `gmn finish --data` calibrates on other people.
    """

    fraction: float = Field(0.15, ge=0, lt=1)
    seed: int = 0


class Validation(_Section):
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


class Recipe(_Section):
    """Everything that decides a run, but its data.

    Attributes:
        initial_weights: `torchvision`, `none` or a file of a state dict, for the backbone; an
            artefact by its name or file, or a run's checkpoint, for the embedder and M-Net.
        metric_network_start: M-Net's first weights: `random`; `cosine`, where its score is an
            affine function of the cosine; or `initial`, those of an artefact or a checkpoint, or
            the cosine where it holds none that fits, and random ones without artefact and
            checkpoint.
        initial_weights_data: data sets that the publisher of the initial weights names, such as
            `["ImageNet", "MSMT17"]`; empty where they are not known, or an artefact states them.
        initial_weights_terms: under what terms the initial weights may be used.
        terms: under what terms the weights may be used, where the data sets do not say it all.
        refuse_worse: whether the run ends with an error in place of an artefact where this would be
            worse on the held-out people than what it started from.
        precision: what the network computes in; `float16` scales the loss.
        workers: threads that prepare batches ahead; 0 prepares each when it is needed.
        cache_megabytes: memory for decoded crops.
        published: figures of a paper for this recipe and the rows that one `--set` makes of it.
    """

    name: str
    description: str = ""
    embedder: EmbedderConfig = EmbedderConfig()
    terms: str = ""
    initial_weights: str = "torchvision"
    initial_weights_data: tuple[str, ...] = ()
    initial_weights_terms: str = ""
    metric_network: MetricNetworkConfig = MetricNetworkConfig()
    metric_network_start: Literal["initial", "random", "cosine"] = "initial"
    preprocessing: Preprocessing = Preprocessing()
    sampling: Sampling = Sampling()
    augmentation: Augmentation = Augmentation()
    losses: Losses = Losses()
    distillation: Distillation = Distillation()
    optimisation: Optimisation = Optimisation()
    held_out: HeldOut = HeldOut()
    validation: Validation = Validation()
    refuse_worse: bool = False
    precision: TrainingPrecision = "auto"
    seed: int = 0
    workers: int = Field(0, ge=0)
    cache_megabytes: int = Field(2048, ge=0)
    log_every_steps: int = Field(20, ge=1)
    checkpoint_every_steps: int = Field(200, ge=1)
    published: tuple[Published, ...] = ()

    @property
    def decoded(self) -> Preprocessing:
        """How a training crop is decoded: at the size out of which the input's is cut."""
        if self.augmentation.resize is None:
            return self.preprocessing
        height, width = self.augmentation.resize
        return self.preprocessing.model_copy(update={"height": height, "width": width})

    @property
    def decisive(self) -> dict[str, Any]:
        """The settings that the weights depend on, as JSON."""
        return self.model_dump(mode="json", exclude=INDECISIVE)

    @model_validator(mode="after")
    def _regularises_whole_batches(self) -> Recipe:
        if self.optimisation.micro_batch and self.losses.gradient_regulariser.weight:
            raise ValueError(
                "the gradient regulariser needs the whole batch's graph at once; set "
                "optimisation.micro_batch=none or losses.gradient_regulariser.weight=0"
            )
        return self

    @model_validator(mode="after")
    def _cuts_from_something_larger(self) -> Recipe:
        if self.decoded.height < self.preprocessing.height or (
            self.decoded.width < self.preprocessing.width
        ):
            raise ValueError(
                "augmentation.resize is smaller than the input; raise it, or set it to none"
            )
        return self


def read_recipe(name: str, overrides: list[str] | None = None) -> Recipe:
    """Reads a recipe file, or one of the project's by its name, and applies overrides.

    Args:
        name: a TOML file, or the name of a shipped recipe such as `gmn-r50`.
        overrides: `key=value` with dotted keys, such as `losses.pic=0.3`; values as TOML writes
            them, and anything else taken as text; `section={a=1, b=2}` sets several of a section.

    Where it starts from an artefact or a checkpoint, the sections `embedder`, `preprocessing` and
    `metric_network` that the file leaves out are taken from there.

    Raises:
        InputProblem: naming the recipe, the key and what it may be.
    """
    path = Path(name) if Path(name).suffix == ".toml" else RECIPES / f"{name}.toml"
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in RECIPES.glob("*.toml")))
        raise InputProblem(f"recipe {name}: no such file; name a TOML file or one of {shipped}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputProblem(f"recipe {path}: not valid TOML ({error})") from error
    own = set(content)
    for override in overrides or []:
        _apply(content, override)
    _continue_from_start(content, own)
    _settle_nones(content)
    content.setdefault("name", path.stem)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            message = f"there is no such setting; {_known_setting(first['loc'])}"
        else:
            # What concerns several keys at once has no one value to show.
            got = "" if isinstance(first["input"], dict) else f", got {first['input']!r}"
            message = first["msg"] + got
        raise InputProblem(f"recipe {name}: {key or 'as a whole'}: {message}") from error


def _known_setting(place: Sequence[int | str]) -> str:
    """The setting nearest to one that a recipe has not, or all that its section has.

    Args:
        place: the unknown setting's keys, from the recipe down.
    """
    section: type[BaseModel] = Recipe
    *parents, last = (str(part) for part in place)
    for parent in parents:
        inner = section.model_fields[parent].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return "see training/recipe.py for those there are"
        section = inner
    known = {name: ".".join((*parents, name)) for name in section.model_fields}
    close = get_close_matches(last, known, n=1)
    if close:
        return f"did you mean {known[close[0]]}?"
    return f"known are {', '.join(known.values())}"


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputProblem(f"--set {override}: write it as key=value, such as losses.pic=0.3")
    section = content
    *parents, last = key.strip().split(".")
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise InputProblem(f"--set {override}: {parent} holds a value, not settings")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if isinstance(value, dict) and isinstance(section.get(last), dict):
        # Several settings of one section; those that are not named stay.
        value = section[last] | value
    section[last] = value


def _continue_from_start(content: dict[str, Any], own: set[str]) -> None:
    """Adds the sections that a recipe leaves to what it starts from.

    Args:
        content: of the recipe, changed in place.
        own: the keys of its file; settings of the command line are added to what it starts from.
    """
    from training.initial_weights import sections_of

    weights = content.get("initial_weights")
    sections = sections_of(weights) if isinstance(weights, str) else {}
    for name, section in sections.items():
        changed = content.get(name, {})
        if name not in own and isinstance(changed, dict):
            content[name] = section | changed


def _settle_nones(section: dict[str, Any]) -> None:
    """TOML knows no null: the word none stands for it where a key may be absent."""
    for key, value in section.items():
        if isinstance(value, dict):
            _settle_nones(value)
        elif key in OPTIONAL and value in ("none", "null"):
            section[key] = None
