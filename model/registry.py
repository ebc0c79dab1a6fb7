"""A registry of parts by name: the project's own, and those of installed packages and plug-ins."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import TypeVar

from model.problems import InputProblem, visible

Part = TypeVar("Part")


class Registry(dict[str, Part]):
    """All parts of one sort by name.

    An installed package adds its parts in every process by an entry point of the registry's group.
    The entry point names a module that registers the part when it is imported, or a function that
    does so when it is called without arguments.

    Attributes:
        sort: the word for a part in messages, such as `loss`.
        group: group of the entry points, such as `gmn.losses`.
    """

    def __init__(
        self,
        sort: str,
        group: str,
    ) -> None:
        super().__init__()
        self.sort = sort
        self.group = group

    def add(
        self,
        name: str,
        part: Part,
    ) -> None:
        """Add a part.

        Raises:
            ValueError: another part has the name.
        """
        if self.setdefault(name, part) is not part:
            raise ValueError(f"there is another {self.sort} {name} already; choose another name")

    def load_packages(self) -> None:
        """Add the parts of installed packages."""
        for point in entry_points(group=self.group):
            if point.name not in self:
                loaded = point.load()
                if point.name not in self:
                    loaded()

    def find(
        self,
        name: str,
        others: str = "",
    ) -> Part:
        """Return the part of a name.

        Args:
            name: name of the part.
            others: other possible names, which end the message.

        Raises:
            InputProblem: the name is unknown; the message lists the known ones.
        """
        if name not in self:
            self.load_packages()
        if name not in self:
            close = get_close_matches(name, self, n=1)
            meant = f"did you mean {close[0]}? " if close else ""
            known = ", ".join(sorted(self))
            raise InputProblem(
                f"there is no {self.sort} {visible(name)}; {meant}known are {known}{others}"
            )
        return self[name]
