"""A training recipe: one frozen configuration, read from TOML, overridden by `--set key=value`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from inspect import isclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from model.architecture import PREFIX, EmbedderConfig, MetricNetworkConfig, find_backbone
from model.precision import Precision
from model.preprocessing import Preprocessing
from model.problems import InputProblem
from training.augmentation import Augmentation
from training.cost import embedder_cost
from training.losses.base import LOSSES, Losses
from training.metric_start import can_start_at_cosine
from training.optimiser import Optimisation
from training.parts import Choice, ChoiceOf, Section, Table, first_setting
from training.plugins import PluginFile, load_plugins
from training.sampler import Sampling
from training.initial_weights import sections_of

TrainingPrecision = Precision | Literal["float16"]
# What may differ between a run and its continuation, since no weight depends on it.
INDECISIVE = {
    *("name", "description", "terms", "workers", "cache_megabytes", "refuse_worse"),
    *("log_every_steps", "checkpoint_every_steps", "validation"),
    *("initial_weights_data", "initial_weights_terms", "metric_fit"),
}
RECIPES = Path(__file__).parent / "recipes"
# Keys for which the word none means that there is no such thing; elsewhere it is a text.
OPTIONAL = (
    "perturbation_from_epoch",
    "identities_per_set",
    "micro_batch",
    "every_steps",
    "workers",
    "multiscale",
    "head",
    "resize",
)


class CameraVariant(Augmentation):
    """What another camera changes of a crop, unless a recipe sets it otherwise."""

    usual: ClassVar[Mapping[str, Any]] = {
        **{"brightness": 0, "contrast": 0.3, "saturation": 0.5},
        **{"white_balance": 0.25, "gamma": 0.5, "coarse": 0.4},
    }
    pad: int = Field(12, ge=0)


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
    augmentation: CameraVariant = CameraVariant()


class Distillation(Section):
    """The teachers that the losses `distilled_…` learn from; these are off where none is named.

    Attributes:
        teachers: files of ready-made models (`.xml`, `.onnx`) or artefacts (`.safetensors`).
        cache: folder that keeps their features from run to run; the run's own where it is empty.
    """

    teachers: tuple[str, ...] = ()
    cache: str = ""


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


class Recipe(Section):
    """Everything that decides a run, but its data.

    Attributes:
        initial_weights: `torchvision`, `torchvision:IMAGENET1K_V1`, `timm`, `none` or a file of a
            state dict, for the backbone; an artefact by its name or file, or a run's checkpoint,
            for the embedder and M-Net.
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
        workers: threads that prepare batches ahead; 0 prepares each when it is needed. Null is 0
            on a CPU and, for a GPU, this process's share of the processors, 16 at most.
        cache_megabytes: memory for decoded crops.
        plugins: the files whose parts the recipe may name, set by `read_recipe`.
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
        """How a training crop is decoded: at the size out of which the input's is cut."""
        return self.augmentation.decoded(self.preprocessing)

    @property
    def decisive(self) -> dict[str, Any]:
        """The settings that the weights depend on, as JSON."""
        return self.model_dump(mode="json", exclude=INDECISIVE)

    @model_validator(mode="after")
    def _minimises_something(self) -> Recipe:
        taught = ("features", "start", *(("teachers",) if self.distillation.teachers else ()))
        kinds = [LOSSES[name] for name in self.losses.on]
        if not any(kind.needs in taught for kind in kinds):
            raise ValueError(
                "no loss is on that learns from the batch; give one a weight, such as "
                "losses.identity=1 or losses.triplet=1"
            )
        return self

    @model_validator(mode="after")
    def _regularises_whole_batches(self) -> Recipe:
        if self.optimisation.micro_batch and self.losses.stages:
            raise ValueError(
                "what works on the outputs of stages, as MSGR does, needs the whole batch's graph "
                "at once; set optimisation.micro_batch=none or, as for MSGR, losses.msgr=0"
            )
        return self

    @model_validator(mode="after")
    def _fits_from_the_cosine(self) -> Recipe:
        if self.metric_fit.steps and not can_start_at_cosine(self.metric_network):
            raise ValueError(
                "metric_fit begins at the cosine, which neither an M-Net on absolute or raw "
                "differences nor one of layers=bn-linear can; set metric_network.layers=two and "
                "metric_network.pair_feature=square, or metric_fit.steps=0"
            )
        return self

    @model_validator(mode="after")
    def _sets_only_stages_that_there_are(self) -> Recipe:
        if find_backbone(self.embedder.backbone).stage_ends is not None:
            return self
        optimisation = self.optimisation
        for setting, wanted, remedy in (
            *(
                (f"losses.{name}.stages", {1, 2, 3} & set(getattr(own, "stages", ())), "[0] or [4]")
                for name, own in self.losses.on.items()
            ),
            ("optimisation.frozen_stages", optimisation.frozen_stages, "0"),
            ("optimisation.layer_decay", optimisation.layer_decay < 1, "1"),
        ):
            if wanted:
                raise ValueError(
                    f"{self.embedder.backbone} has no stages 1 to 3; set {setting}={remedy}, or "
                    "name a backbone with stages"
                )
        return self

    @model_validator(mode="after")
    def _embeds_crops_of_its_size(self) -> Recipe:
        if self.embedder.backbone.startswith(PREFIX):
            size = self.preprocessing
            try:
                embedder_cost(self.embedder, size)
            except (AssertionError, RuntimeError) as error:
                raise ValueError(
                    f"{self.embedder.backbone} does not take crops of {size.height}×{size.width} "
                    f"({error}); set preprocessing.height and preprocessing.width, or name "
                    "another backbone"
                ) from error
        return self

    @model_validator(mode="after")
    def _cuts_from_something_larger(self) -> Recipe:
        for name, augmentation in (
            ("augmentation.resize", self.augmentation),
            ("metric_fit.augmentation.resize", self.metric_fit.augmentation),
        ):
            decoded = augmentation.decoded(self.preprocessing)
            if decoded.height < self.preprocessing.height or (
                decoded.width < self.preprocessing.width
            ):
                raise ValueError(f"{name} is smaller than the input; raise it, or set it to none")
        return self


def read_recipe(
    name: str, overrides: list[str] | None = None, plugins: Sequence[Path | str] = ()
) -> Recipe:
    """Reads a recipe file, or one of the project's by its name, and applies overrides.

    Args:
        name: a TOML file, or the name of a shipped recipe such as `gmn-r50`.
        overrides: `key=value` with dotted keys, such as `losses.pic=0.3`; values as TOML writes
            them, and anything else taken as text; `section={a=1, b=2}` sets several of a section.
        plugins: files that register parts; they are imported first.

    Where it starts from an artefact or a checkpoint, the sections `embedder`, `preprocessing` and
    `metric_network` that the file leaves out are taken from there.

    Raises:
        InputProblem: naming the recipe, the key and what it may be.
    """
    loaded = load_plugins(plugins)
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
    content["plugins"] = loaded
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            message = f"there is no such setting; {_known_setting(first['loc'], content)}"
        else:
            # A problem of several keys at once has no single value to show.
            got = "" if isinstance(first["input"], dict) else f", got {first['input']!r}"
            message = first["msg"].removeprefix("Value error, ") + got
        raise InputProblem(f"recipe {name}: {key or 'as a whole'}: {message}") from error


def _known_setting(place: Sequence[int | str], content: Any) -> str:
    """Return the setting nearest to one that a recipe has not, or all that its section has.

    Args:
        place: the unknown setting's keys, from the recipe down.
        content: of the recipe.
    """
    *parents, last = (str(part) for part in place)
    section = _section_at(parents, content)
    names = [*section.model_fields, *(section.kinds if issubclass(section, Table) else ())]
    known = {name: ".".join((*parents, name)) for name in names}
    others = "; --plugin FILE adds others" if issubclass(section, Table) else ""
    close = get_close_matches(last, known, n=1)
    if close:
        return f"did you mean {known[close[0]]}?{others}"
    return f"known are {', '.join(known.values())}{others}"


def _section_at(place: Sequence[str], content: Any) -> type[BaseModel]:
    """Return the type of a recipe's section, from its keys; no fields where it is none."""
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
    for one in (field.annotation, *get_args(field.annotation)):
        if isclass(one) and issubclass(one, BaseModel):
            return one
    return BaseModel


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputProblem(f"--set {override}: write it as key=value, such as losses.pic=0.3")
    section = content
    *parents, last = place = key.strip().split(".")
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
    held = _as_part(place, section.get(last), content)
    if isinstance(value, dict) and isinstance(held, dict):
        # Several settings of one section; those that are not named stay, but for another part's.
        same = value.get("name", held.get("name")) == held.get("name")
        value = held | value if same else value
    section[last] = value


def _as_part(place: Sequence[str], value: Any, content: dict[str, Any]) -> Any:
    """A bare value as the part's settings that it stands for, such as 0.1 for `losses.pic`."""
    *parents, name = place
    section = _section_at(parents, content)
    if isinstance(value, dict) or value is None:
        return value
    if name in section.model_fields:
        chosen = issubclass(_section_of(section.model_fields[name], None), Choice)
        return {"name": value} if chosen else value
    if issubclass(section, Table) and name in section.kinds:
        return {first_setting(section.kinds[name].settings): value}
    return value


def _continue_from_start(content: dict[str, Any], own: set[str]) -> None:
    """Adds the sections that a recipe leaves to what it starts from.

    Args:
        content: of the recipe, changed in place.
        own: the keys of its file; settings of the command line are added to what it starts from.
    """
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
