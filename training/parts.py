"""Parts that a recipe names, such as losses and optimisers, and their settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema, InitErrorDetails, core_schema

from model.problems import InputProblem
from model.registry import Registry

Registered = TypeVar("Registered", bound=Callable[..., Any])
AnyKind = TypeVar("AnyKind", bound="Kind")


class Section(BaseModel):
    """A section of a recipe; unknown settings are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Kind:
    """A registered part that recipes can name.

    Attributes:
        build: the registered class or function.
        settings: the type of its settings.
    """

    build: Callable[..., Any]
    settings: type[Section]


class Kinds(Registry[AnyKind]):
    """A registry of parts of one sort, such as losses."""

    def __init__(
        self,
        sort: str,
        group: str,
        kind: type[AnyKind],
        settings: type[Section],
    ) -> None:
        super().__init__(sort, group)
        self._kind = kind
        self._settings = settings

    def register(
        self,
        name: str,
        settings: type[Section] | None = None,
        **others: Any,
    ) -> Callable[[Registered], Registered]:
        """Return a decorator that registers a class or a function as a part.

        Args:
            name: the name of the part in recipes.
            settings: the type of its settings; None if it has only the settings that all parts of
                the sort share.
            others: further fields of the sort's `Kind`.

        Raises:
            ValueError: another part has this name.
        """

        def register(build: Registered) -> Registered:
            self.add(name, self._kind(build, settings or self._settings, **others))
            return build

        return register


class Table(Section):
    """A section with the settings of several parts, by their names, besides fields of its own.

    A bare value is the first setting of its part: `pic = 0.1` means `pic = {weight = 0.1}`.

    Attributes:
        kinds: the registry of the parts.
        usual: the parts, and their settings, that a recipe has unless it sets them otherwise.
    """

    model_config = ConfigDict(extra="allow")

    kinds: ClassVar[Registry[Any]]
    usual: ClassVar[Mapping[str, Any]] = {}

    @property
    def parts(self) -> dict[str, Any]:
        """The settings of each part, in the order of registration."""
        settings = self.model_extra or {}
        return {name: settings[name] for name in self.kinds if name in settings}

    @property
    def on(self) -> dict[str, Any]:
        """The settings of the parts whose first setting, such as a weight, is not 0."""
        return {name: settings for name, settings in self.parts.items() if is_on(settings)}

    @model_validator(mode="before")
    @classmethod
    def _by_type(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        content = {}
        for name, value in {**cls.usual, **values}.items():
            if name in cls.model_fields:
                content[name] = value
                continue
            settings = typed(cls.kinds, name, value, (name,))
            if is_on(settings):
                content[name] = settings
            elif name in cls.usual:
                # Other settings of a part that is off are dropped, because they have no effect.
                kind = type(settings)
                content[name] = kind.model_validate({first_setting(kind): 0})
        return content


def is_on(settings: BaseModel) -> bool:
    """Return whether the first setting of a part, such as a weight, is not 0."""
    return bool(getattr(settings, first_setting(type(settings))))


def first_setting(settings: type[BaseModel]) -> str:
    """Return the name of the setting that a bare value sets."""
    return next(iter(settings.model_fields))


class Choice(Section):
    """Settings of a part that is chosen by its name, such as an optimiser."""

    name: str


@dataclass(frozen=True)
class ChoiceOf:
    """Annotates a setting that chooses a part: `"steps"`, or `{name="steps", milestones=[5]}`.

    Attributes:
        kinds: the registry of the parts.
        usual: the name of the default part.
    """

    kinds: Registry[Any]
    usual: str

    def settings_of(self, value: Any) -> type[Section]:
        """Return the type of the settings of the part that a value names.

        Raises:
            InputProblem: the part is unknown.
        """
        named = value.get("name") if isinstance(value, Mapping) else value
        settings: type[Section] = self.kinds.find(named or self.usual).settings
        return settings

    def _settled(self, value: Any) -> Any:
        if isinstance(value, Choice):
            return value
        self.settings_of(value)
        content = value if isinstance(value, Mapping) else {"name": value}
        name = content.get("name") or self.usual
        return typed(self.kinds, name, {**content, "name": name})

    def __get_pydantic_core_schema__(
        self,
        source: Any,
        handler: GetCoreSchemaHandler,
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._settled, handler(source))


def typed(
    kinds: Registry[Any],
    name: str,
    value: Any,
    place: tuple[str, ...] = (),
) -> Any:
    """Validate the settings of a part as the part's own type.

    Args:
        kinds: the registry of the parts.
        name: the name of the part.
        value: its settings by name, or the value of its first setting.
        place: the place of the settings in their section, for errors.

    Raises:
        ValidationError: the part or a setting is unknown, or a value is out of bounds.
    """
    try:
        settings: type[Section] = kinds.find(name).settings
        if isinstance(value, settings):
            return value
        if not isinstance(value, Mapping):
            value = {first_setting(settings): value}
        return settings.model_validate(value)
    except ValidationError as error:
        details = [
            InitErrorDetails(
                type=detail["type"],
                loc=(*place, *detail["loc"]),
                input=detail["input"],
                ctx=detail.get("ctx", {}),
            )
            for detail in error.errors()
        ]
    except InputProblem:
        details = [InitErrorDetails(type="extra_forbidden", loc=place, input=value)]
    raise ValidationError.from_exception_data(name, details)
