"""Recipes: the settings of a training, read from TOML and overridden by `--set key=value`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from inspect import isclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from model.architecture import EmbedderConfig, MetricNetworkConfig
from model.precision import Precision
from model.preprocessing import Preprocessing
from model.problems import InputProblem, legible
from training.augmentation import Augmentation
from training.initial_weights import sections_of
from training.losses.base import LOSSES, Losses
from training.metric_start import can_start_at_cosine
from training.optimiser import Optimisation
from training.parts import Choice, ChoiceOf, Section, Table, first_setting
from training.plugins import PluginFile, load_plugins
from training.sampler import Sampling

TrainingPrecision = Precision | Literal["float16"]
# Settings that no weight depends on, so that a resumed run may change them.
INDECISIVE = {
    "name",
    "description",
    "terms",
    "workers",
    "cache_megabytes",
    "refuse_worse",
    "log_every_steps",
    "checkpoint_every_steps",
    "validation",
    "initial_weights_data",
    "initial_weights_terms",
    "metric_fit",
    "projection_fit",
}
RECIPES = Path(__file__).parent / "recipes"
# TOML has no null. For these settings the word none stands for it.
OPTIONAL = (
    "perturbation_from_epoch",
    "identities_per_set",
    "micro_batch",
    "every_steps",
    "workers",
    "multiscale",
    "head",
    "resize",
    "shrinkage",
)


class CameraVariant(Augmentation):
    """Augmentation that imitates another camera."""

    usual: ClassVar[Mapping[str, Any]] = {
        "brightness": 0,
        "contrast": 0.3,
        "saturation": 0.5,
        "white_balance": 0.25,
        "gamma": 0.5,
        "coarse": 0.4,
    }
    pad: int = Field(12, ge=0)


class MetricFit(Section):
    """Settings of the M-Net that is fitted after the training, while the embedder stays unchanged.

    Attributes:
        steps: the number of steps; 0 keeps the M-Net that was trained together with the embedder.
        learning_rate: the learning rate of the first step; it falls to 0 along a cosine.
        cosine_anchor: the weight of the term that keeps M-Net's scores near the cosine.
        cosine_weight: the number of standard deviations of the cosine that are added, at the end,
            to one standard deviation of M-Net's score. More is safer under new cameras, but makes
            M-Net's correction smaller.
        crops: the approximate number of crops of each data set; people are taken as a whole.
        views: the number of camera variants in which each crop is embedded.
        augmentation: the changes of a camera variant.
    """

    steps: int = Field(0, ge=0)
    learning_rate: float = Field(1e-4, gt=0)
    cosine_anchor: float = Field(0.3, ge=0)
    cosine_weight: float = Field(3.0, ge=0)
    crops: int = Field(2500, ge=2)
    views: int = Field(3, ge=1)
    augmentation: CameraVariant = CameraVariant()


class ProjectionFit(Section):
    """Settings of the projection that is fitted after the training to features of training people.

    Attributes:
        shrinkage: a direction in which crops of one person differ between cameras by this multiple
            of the mean over all directions is shortened by a factor of √2, and others accordingly;
            null fits no projection.
    """

    shrinkage: float | None = Field(None, gt=0)


class Distillation(Section):
    """The teachers of the losses `distilled_…`, which are off if there are none.

    Attributes:
        teachers: files of ready-made models (`.xml`, `.onnx`) or artefacts (`.safetensors`).
        cache: a folder that keeps the teachers' features for other runs; if empty, they are kept
            in the run's folder.
    """

    teachers: tuple[str, ...] = ()
    cache: str = ""


class HeldOut(Section):
    """The people held out of training, chosen by a seeded hash of (data set, identity).

    Attributes:
        fraction: the share of each data set's people. With 0 the run trains on all people, as the
            papers do, and ends with a checkpoint, of which `gmn finish --data` makes an artefact. A
            run that only fits a projection is measured out of fold instead.
    """

    fraction: float = Field(0.15, ge=0, lt=1)
    seed: int = 0


class Validation(Section):
    """Settings of the validation on held-out people, which chooses the best weights.

    Attributes:
        every_epochs: the number of epochs from one validation to the next. There is always one
            after the last epoch; with 0 there is no validation at all.
        every_steps: the number of steps between additional validations; null for none.
        identities: the largest number of held-out people of each data set, chosen by a hash.
        crops: the largest number of crops of each person under each camera.
    """

    every_epochs: int = Field(1, ge=0)
    every_steps: int | None = Field(None, ge=1)
    identities: int = Field(100, ge=2)
    crops: int = Field(2, ge=1)


class Recipe(Section):
    """All settings of a run except its data.

    Attributes:
        initial_weights: for the backbone `torchvision`, `torchvision:IMAGENET1K_V1`, `timm`, `none`
            or the file of a state dict; for embedder and M-Net the name or file of an artefact.
        metric_network_start: the initial weights of M-Net: `random`; `cosine`, with which its score
            is an affine function of the cosine; or `initial`, the weights of an artefact. If the
            artefact has no M-Net that fits, `initial` is the cosine; without an artefact, random.
        initial_weights_data: the training data that the publisher of the initial weights names,
            such as `["ImageNet", "MSMT17"]`; empty if unknown, or if an artefact states them.
        initial_weights_terms: the terms of use of the initial weights.
        terms: the terms of use of the artefact; if empty, they are the data sets' terms.
        refuse_worse: whether the run ends with an error, and writes no artefact, if its weights are
            worse on the held-out people than the artefact that it started from.
        precision: the number format of the network; `float16` scales the loss.
        workers: the number of threads that prepare batches in advance; with 0 each is prepared when
            it is needed. Null is 0 on a CPU and, for a GPU, this process's share of the processors,
            16 at most.
        cache_megabytes: the memory for decoded crops.
        plugins: the plug-in files whose parts the recipe may name, set by `read_recipe`.
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
    metric_fit: MetricFit = MetricFit()
    projection_fit: ProjectionFit = ProjectionFit()
    held_out: HeldOut = HeldOut()
    validation: Validation = Validation()
    refuse_worse: bool = False
    precision: TrainingPrecision = "auto"
    seed: int = 0
    workers: int | None = Field(None, ge=0)
    cache_megabytes: int = Field(2048, ge=0)
    log_every_steps: int = Field(20, ge=1)
    checkpoint_every_steps: int = Field(200, ge=1)
    plugins: tuple[PluginFile, ...] = ()

    @property
    def decoded(self) -> Preprocessing:
        """The preprocessing of decoded training crops, out of which the input is cut."""
        return self.augmentation.decoded(self.preprocessing)

    @property
    def makes_metric_network(self) -> bool:
        """Return whether the artefact has an M-Net: one without a loss would score noise."""
        return bool(self.metric_fit.steps) or "gmn" in self.losses.on

    @property
    def is_folded(self) -> bool:
        """Return whether the run fits a projection alone, and is measured out of fold."""
        learns_more = self.optimisation.epochs or self.makes_metric_network
        return not (learns_more or self.held_out.fraction or self.sampling.recombined)

    @property
    def measures_nobody(self) -> bool:
        """Return whether nobody is held out or out of fold, to measure and calibrate on."""
        return not self.held_out.fraction and not self.is_folded

    @property
    def decisive(self) -> dict[str, Any]:
        """The settings that the trained weights depend on, as JSON."""
        return self.model_dump(mode="json", exclude=INDECISIVE)

    @model_validator(mode="after")
    def _can_be_learnt(self) -> Recipe:
        inputs = ["features", "start"]
        if self.distillation.teachers:
            inputs.append("teachers")
        if not any(LOSSES[name].needs in inputs for name in self.losses.on):
            raise ValueError(
                "no loss is on that learns from the batch; give one a weight, such as "
                "losses.identity=1 or losses.triplet=1"
            )
        if self.optimisation.micro_batch and self.losses.stages:
            raise ValueError(
                "losses on the outputs of stages, such as MSGR, need the graph of the whole batch; "
                "set optimisation.micro_batch=none or, for MSGR, losses.msgr=0"
            )
        if not self.optimisation.epochs and self.projection_fit.shrinkage is None:
            raise ValueError(
                "no epoch is trained and no projection is fitted, so that nothing would change; "
                "raise optimisation.epochs, or set projection_fit.shrinkage=1"
            )
        if self.metric_fit.steps and not can_start_at_cosine(self.metric_network):
            raise ValueError(
                "metric_fit starts M-Net at the cosine, which is impossible with absolute or raw "
                "differences; set metric_network.pair_feature=square, or metric_fit.steps=0"
            )
        return self

    @model_validator(mode="after")
    def _decodes_crops_of_its_size(self) -> Recipe:
        size = self.preprocessing
        for name, augmentation in (
            ("augmentation.resize", self.augmentation),
            ("metric_fit.augmentation.resize", self.metric_fit.augmentation),
        ):
            decoded = augmentation.decoded(size)
            if decoded.height < size.height or decoded.width < size.width:
                raise ValueError(f"{name} is smaller than the input; raise it, or set it to none")
        return self


def read_recipe(
    name: str,
    overrides: list[str] | None = None,
    plugins: Sequence[Path | str] = (),
) -> Recipe:
    """Read a recipe file, or one of the project's by its name, and apply overrides.

    If the recipe starts from an artefact, the sections `embedder`, `preprocessing` and
    `metric_network` that the file leaves out are taken from the artefact.

    Args:
        name: a TOML file, or the name of a shipped recipe such as `gmn-r50`.
        overrides: settings `key=value` with dotted keys, such as `losses.pic=0.3`. A value that is
            no TOML is a text; `section={a=1, b=2}` sets several keys of a section.
        plugins: plug-in files, which are imported first.

    Raises:
        InputProblem: the recipe or a setting is wrong; names the key and its possible values.
    """
    loaded = load_plugins(plugins)
    path = Path(name) if Path(name).suffix == ".toml" else RECIPES / f"{name}.toml"
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in RECIPES.glob("*.toml")))
        raise InputProblem(
            f"recipe {legible(name)}: no such file; name a TOML file or one of {shipped}"
        )
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputProblem(f"recipe {path}: not valid TOML ({error})") from error
    file_keys = set(content)
    for override in overrides or []:
        _apply(content, override)
    weights = content.get("initial_weights")
    start = sections_of(weights) if isinstance(weights, str) else {}
    for section, known in start.items():
        # If only the command line sets keys of a section, the others are the artefact's.
        changed = content.get(section, {})
        if section not in file_keys and isinstance(changed, dict):
            content[section] = known | changed
    _settle_nones(content)
    content.setdefault("name", path.stem)
    content["plugins"] = loaded
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            message = f"there is no such setting; {_known_setting(first['loc'], content)}"
        else:
            # A problem of a whole section has no single value to show.
            got = "" if isinstance(first["input"], dict) else f", got {first['input']!r}"
            message = first["msg"].removeprefix("Value error, ") + got
        raise InputProblem(
            f"recipe {name}: {legible(key) if key else 'as a whole'}: {message}"
        ) from error


def _known_setting(place: Sequence[int | str], content: Any) -> str:
    """Suggest the setting whose name is nearest to an unknown one, or list those of its section.

    Args:
        place: the keys of the unknown setting, from the recipe down.
        content: the content of the recipe.
    """
    *parents, last = (str(part) for part in place)
    section = _section_at(parents, content)
    names = list(section.model_fields)
    others = ""
    if issubclass(section, Table):
        names += section.kinds
        others = "; --plugin FILE adds others"
    settings = {name: ".".join((*parents, name)) for name in names}
    close = get_close_matches(last, settings, n=1)
    if close:
        return f"did you mean {settings[close[0]]}?{others}"
    return f"known are {', '.join(settings.values())}{others}"


def _section_at(place: Sequence[str], content: Any) -> type[BaseModel]:
    """Return the type of the section at these keys of a recipe, or `BaseModel` if there is none."""
    section: type[BaseModel] = Recipe
    for name in place:
        content = content.get(name) if isinstance(content, dict) else None
        if name in section.model_fields:
            section = _section_of(section.model_fields[name], content)
        elif issubclass(section, Table) and name in section.kinds:
            section = section.kinds[name].settings
        else:
            return BaseModel
    return section


def _section_of(field: FieldInfo, content: Any) -> type[BaseModel]:
    for choice in field.metadata:
        if isinstance(choice, ChoiceOf):
            return choice.settings_of(content)
    for kind in (field.annotation, *get_args(field.annotation)):
        if isclass(kind) and issubclass(kind, BaseModel):
            return kind
    return BaseModel


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputProblem(f"--set {override}: write it as key=value, such as losses.pic=0.3")
    section = content
    place = key.strip().split(".")
    *parents, last = place
    for depth, parent in enumerate(parents, start=1):
        section[parent] = _as_part(place[:depth], section.get(parent, {}), content)
        section = section[parent]
        if not isinstance(section, dict):
            whole = ".".join(place[:depth])
            raise InputProblem(
                f"--set {override}: {whole} is {section!r}, not settings; set it as a whole, such "
                f"as --set '{whole}={{{'.'.join(place[depth:])}={text}}}'"
            )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    value = _as_part(place, value, content)
    earlier = _as_part(place, section.get(last), content)
    if isinstance(value, dict) and isinstance(earlier, dict):
        # Keep the section's other settings, unless the override chooses another part.
        same_part = value.get("name", earlier.get("name")) == earlier.get("name")
        value = earlier | value if same_part else value
    section[last] = value


def _as_part(
    place: Sequence[str],
    value: Any,
    content: dict[str, Any],
) -> Any:
    """Turn the bare value of a part, such as 0.1 for `losses.pic`, into a table of settings."""
    *parents, name = place
    section = _section_at(parents, content)
    if isinstance(value, dict) or value is None:
        return value
    if name in section.model_fields:
        is_choice = issubclass(_section_of(section.model_fields[name], None), Choice)
        return {"name": value} if is_choice else value
    if issubclass(section, Table) and name in section.kinds:
        return {first_setting(section.kinds[name].settings): value}
    return value


def _settle_nones(section: dict[str, Any]) -> None:
    for key, value in section.items():
        if isinstance(value, dict):
            _settle_nones(value)
        elif key in OPTIONAL and value in ("none", "null"):
            section[key] = None
