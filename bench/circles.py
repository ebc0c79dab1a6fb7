"""Circles of imports, at the top of a file, inside functions and for types alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping


def import_circles(files: Mapping[str, str]) -> list[tuple[str, ...]]:
    """The groups of files of which each reaches all others by its imports, sorted.

    Args:
        files: by its path below the folder that modules are imported from, what each contains.
    """
    modules = {_module(path): path for path in files}
    imports = {
        path: {modules[name] for name in _imported(text, modules)} - {path}
        for path, text in files.items()
    }
    reached = {path: _reached(path, imports) for path in files}
    circles = {
        tuple(sorted(other for other in reached[path] if path in reached[other]))
        for path in files
        if path in reached[path]
    }
    return sorted(circles)


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


def _reached(start: str, imports: Mapping[str, set[str]]) -> set[str]:
    """All files that one reaches in a step or more."""
    found: set[str] = set()
    waiting = list(imports[start])
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting.extend(imports[path])
    return found
