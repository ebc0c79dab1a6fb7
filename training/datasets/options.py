"""`PATH,name=value`: the options behind the PATH of a spec."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from training.datasets.folder import DatasetProblem

_OPTION = re.compile(r"(?P<path>.*),\s*(?P<name>[a-z]+)\s*=\s*(?P<value>[^,/\\]*)", re.DOTALL)


def split_options(
    kind: str, text: str, options: Mapping[str, tuple[str, ...]]
) -> tuple[str, dict[str, str]]:
    """Takes the options off a PATH.

    A path that exists as it is written, comma and all, is a path.

    Args:
        kind: the KIND of the spec, for the message.
        text: what follows `KIND:`.
        options: the options there are and the values of each.

    Returns:
        The path, and the value of every option that was given.

    Raises:
        DatasetProblem: naming the option or value that there is none of, or that is given twice.
    """
    path, given = text, {}
    while (match := _OPTION.fullmatch(path)) and not Path(path).exists():
        path, name, value = match["path"], match["name"], match["value"].strip()
        if name not in options:
            there_are = f"its options are {', '.join(options)}" if options else "it takes none"
            raise DatasetProblem(f"{kind}:{text}: there is no option {name}; {there_are}")
        if value not in options[name]:
            values = " or ".join(f"{name}={value}" for value in options[name])
            raise DatasetProblem(f"{kind}:{text}: {name} is {value!r}; write {values}")
        if name in given:
            raise DatasetProblem(f"{kind}:{text}: {name} is given twice; write it once")
        given[name] = value
    return path, given
