"""The parts that a recipe names: each by its name, with settings of the part's own type."""

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
    """Settings that belong together; a setting that does not exist is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Kind:
    """A part that recipes can name.

    Attributes:
        build: the class or function that was registered.
        settings: the type of its settings.
    """

    build: Callable[..., Any]
    settings: type[Section]


class Kinds(Registry[AnyKind]):
    """Parts of one sort, and the decorator that registers one."""

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
        """Decorate a class or a function, to add it as a part that recipes can name.

        Args:
            name: name of the part.
            settings: the type of its settings; None if it has only those of every part of the sort.
            others: further fields of the sort's `Kind`.

        Raises:
            ValueError: another part has the name.
        """

        def register(build: Registered) -> Registered:
            self.add(name, self._kind(build, settings or self._settings, **others))
            return build

        return register


class Table(Section):
    """Settings of parts by their names, beside a section's own.

    A bare value stands for the first setting of its part: `pic = 0.1` for `pic = {weight = 0.1}`.

    Attributes:
        kinds: the known parts.
        usual: parts, with their settings, that take part unless a recipe names them.
    """

    model_config = ConfigDict(extra="allow")

    kinds: ClassVar[Registry[Any]]
    usual: ClassVar[Mapping[str, Any]] = {}

    @property
    def parts(self) -> dict[str, Any]:
        """The settings of each part, in the order in which the parts were registered."""
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
                # A part that is off is its first setting alone: the rest decides nothing.
                kind = type(settings)
                content[name] = kind.model_validate({first_setting(kind): 0})
        return content


def is_on(settings: BaseModel) -> bool:
    """Return whether the first setting of a part, such as a weight, is not 0."""
    return bool(getattr(settings, first_setting(type(settings))))


def first_setting(settings: type[BaseModel]) -> str:
    """Return the setting that a bare value stands for."""
    return next(iter(settings.model_fields))


class Choice(Section):
    """Settings of a part that is chosen by its name; the name alone leaves the others as usual."""

    name: str


@dataclass(frozen=True)
class ChoiceOf:
    """Annotates a setting that names a part: `"steps"`, or `{name="steps", milestones=[5]}`.

    Attributes:
        kinds: the known parts.
        usual: the name of the part that is taken if none is named.
    """

    kinds: Registry[Any]
    usual: str

    def settings_of(self, value: Any) -> type[Section]:
        """Return the type of the settings of the part that a value names.

        Raises:
            InputProblem: for an unknown part.
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
    """Return a part's settings, of the part's own type.

    Args:
        kinds: the known parts.
        name: name of the part.
        value: its settings by name, or the first one alone.
        place: their place in the section, for errors.

    Raises:
        ValidationError: for an unknown part or setting, or a value that is out of bounds.
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
