"""How large the code is, and how long the way of a query, an enrolment and a training through it.

`python -m bench.structure` counts files, lines and tokens of each package, names a circle of
imports, and traces which of the project's functions one query and one enrolment enter, in how many
files and with how many changes of thread. `--train` traces a training in their place, up to its
first update and in one step. `--list` prints these functions in the order in which they are first
entered.
"""

from __future__ import annotations

import ast
import graphlib
import io
import subprocess
import textwrap
import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from bench.ways import Entered, request_ways, summary, training_ways

ROOT = Path(__file__).resolve().parent.parent
# What the tests hold the code to. A number that rises is a commit of its own, with its reason.
BOUNDS = {
    "tokens of service and gmn_client": 169_130,
    "files of service and gmn_client": 154,
    "functions of a query": 173,
    "files of a query": 38,
    "functions of an enrolment": 237,
    "files of an enrolment": 40,
    "tokens of training": 117_970,
    "files of training": 109,
    "tokens of model": 29_350,
    "functions of a first update": 163,
    "files of a first update": 35,
    "functions of a step": 45,
    "files of a step": 11,
    "tokens of a function": 783,
}
READ = (".py", ".lua")
COUNTED = (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING)


def sizes(texts: Mapping[Path, str]) -> dict[str, Counter[str]]:
    """Files and lines of each package, and of its Lua."""
    found: dict[str, Counter[str]] = {}
    outside = Counter[str]()
    for file, text in texts.items():
        top = file.parts[0]
        is_python = file.suffix == ".py"
        one = Counter(files=1, lines=len(text.splitlines()))
        if is_python:
            one["tokens"] = tokens(text)
        found.setdefault(top if is_python else f"{top} (Lua)", Counter()).update(one)
        if is_python and top not in ("tests", "model", "training"):
            outside.update(one)
    return found | {"outside tests, model and training": outside}


def tokens(text: str) -> int:
    """Count the names, operators, numbers and strings of code, without docstrings and comments."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        node.body[0].lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, documented) and ast.get_docstring(node)
    }
    return sum(
        token.type in COUNTED
        and not (token.type == tokenize.STRING and token.start[0] in docstrings)
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
    )


def measured(
    texts: Mapping[Path, str], ways: Mapping[str, Sequence[Entered]] | None = None
) -> dict[str, int]:
    """What `BOUNDS` bound, under the same names; of the ways only where they were traced."""
    own = {file: text for file, text in texts.items() if file.suffix == ".py"}
    longest = max(size for text in own.values() for size in _function_tokens(text))
    found = {"tokens of a function": longest}
    for packages in (("service", "gmn_client"), ("training",), ("model",)):
        bound = [text for file, text in own.items() if file.parts[0] in packages]
        name = " and ".join(packages)
        found[f"tokens of {name}"] = sum(tokens(text) for text in bound)
        found[f"files of {name}"] = len(bound)
    for way, entered in (ways or {}).items():
        found |= {f"{what} of {way}": count for what, count in summary(entered).items()}
    return {name: count for name, count in found.items() if name in BOUNDS}


def circle(texts: Mapping[Path, str]) -> tuple[str, ...]:
    """A circle of imports, tests included, as its files' paths in order; empty without one."""
    return import_circle(
        {file.as_posix(): text for file, text in texts.items() if file.suffix == ".py"}
    )


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


def read_files() -> dict[Path, str]:
    """What git knows of the project's files, by path, in this working tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    files = map(Path, filter(None, listed.stdout.decode().split("\0")))
    kept = (file for file in files if file.suffix in READ and (ROOT / file).is_file())
    return {file: (ROOT / file).read_text(encoding="utf-8", errors="replace") for file in kept}


def _function_tokens(text: str) -> list[int]:
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    sources = [
        ast.get_source_segment(text, node, padded=True)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, functions)
    ]
    return [tokens(textwrap.dedent(source or "")) for source in sources]


def main(
    train: Annotated[bool, typer.Option("--train", help="A training's ways.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="The functions of each way.")] = False,
) -> None:
    """Prints sizes, bounds, a circle of imports, and ways."""
    ways = training_ways() if train else request_ways()
    texts = read_files()
    found = {name: summary(way) for name, way in ways.items()}
    for name, figures in {**sizes(texts), **found}.items():
        typer.echo(f"{name}: " + ", ".join(f"{v} {k}" for k, v in figures.items()))
    for name, count in measured(texts, ways).items():
        typer.echo(f"{name}: {count}, at most {BOUNDS[name]}")
    if found_circle := circle(texts):
        typer.echo(f"circle: {', '.join(found_circle)}")
    for name, way in ways.items() if list_ else ():
        typer.echo(f"\n{name}")
        for file, function in dict.fromkeys((file, name) for file, name, _ in way):
            typer.echo(f"    {file}  {function}")


if __name__ == "__main__":
    typer.run(main)
