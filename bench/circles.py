"""Circles of imports, at the top of a file, inside functions and for types alone."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator, Mapping


def import_circle(files: Mapping[str, str]) -> tuple[str, ...]:
    """A circle of files of which each imports the next; the first is the last again.

    Args:
        files: by its path below the folder that modules are imported from, what each contains.
    """
    modules = {_module(path): path for path in files}
    imports = {
        path: {modules[name] for name in _imported(text, modules)} - {path}
        for path, text in files.items()
    }
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        # It names what is imported before what imports it.
        return tuple(reversed(error.args[1]))
    return ()


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imported(text: str, modules: Mapping[str, str]) -> Iterator[str]:
    """The modules that a file names, at any depth; of `from a import b`, a.b where that is one."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in modules or node.module in modules:
                    yield inner if inner in modules else str(node.module)
