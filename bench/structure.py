"""Size and legibility of the code, and the ways of a query, an enrolment and a training through it.

`python -m bench.structure` counts files, lines, tokens and hard-to-read patterns of each package,
names a circle of imports, and traces which functions of the project one query and one enrolment
enter, in how many files and with how many changes of thread. `--train` traces a training instead,
up to its first update and in one step. `--list` prints these functions in the order in which they
are first entered. `--places KIND` prints the places of one pattern and traces nothing.
"""

from __future__ import annotations

import ast
import graphlib
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from bench.legibility import KINDS, Legibility, PythonFile
from bench.ways import request_ways, summary, training_ways

ROOT = Path(__file__).resolve().parent.parent
# A commit that raises a bound or a ceiling gives the reason.
BOUNDS = {
    "tokens of service and gmn_client": 163_960,
    "files of service and gmn_client": 134,
    "functions of a query": 167,
    "files of a query": 42,
    "functions of an enrolment": 235,
    "files of an enrolment": 44,
    "tokens of training": 92_430,
    "files of training": 84,
    "tokens of model": 31_630,
    "functions of a first update": 126,
    "files of a first update": 35,
    "functions of a step": 43,
    "files of a step": 12,
}
# Any share of documented functions is welcome in gmn_client and model.
CEILINGS = {
    "service": Legibility(
        packed=1,
        terse=40,
        opening=3,
        noun=2,
        clause=10,
        vague=2,
        long=0,
        tokens_per_line=8.2,
        documented=45,
    ),
    "gmn_client": Legibility(
        packed=0,
        terse=3,
        opening=0,
        noun=0,
        clause=0,
        vague=0,
        long=0,
        tokens_per_line=7.4,
        documented=100,
    ),
    "model": Legibility(
        packed=0,
        terse=4,
        opening=0,
        noun=0,
        clause=0,
        vague=0,
        long=0,
        tokens_per_line=8.9,
        documented=100,
    ),
    "training": Legibility(
        packed=0,
        terse=5,
        opening=0,
        noun=2,
        clause=33,
        vague=5,
        long=0,
        tokens_per_line=8.4,
        documented=77,
    ),
    "demo": Legibility(
        packed=0,
        terse=1,
        opening=0,
        noun=0,
        clause=0,
        vague=0,
        long=0,
        tokens_per_line=7.9,
        documented=65,
    ),
    "bench": Legibility(
        packed=0,
        terse=3,
        opening=3,
        noun=0,
        clause=6,
        vague=4,
        long=0,
        tokens_per_line=9.3,
        documented=57,
    ),
    "tests": Legibility(
        packed=5,
        terse=33,
        opening=128,
        noun=221,
        clause=256,
        vague=538,
        long=0,
        tokens_per_line=10.1,
        documented=15,
    ),
}


def read_files() -> dict[str, str]:
    """Read the Python and Lua files of this working tree that git tracks, by path."""
    command = ["git", "ls-files", "-z", "*.py", "*.lua"]
    listing = subprocess.check_output(command, cwd=ROOT, text=True)
    files = {}
    for path in listing.split("\0"):
        file = ROOT / path
        if file.is_file():
            files[path] = file.read_text(encoding="utf-8")
    return files


def count_packages(files: Mapping[str, str]) -> dict[str, Counter[str]]:
    """Count the files and lines of each package and of its Lua, and the patterns of its Python."""
    packages: dict[str, Counter[str]] = {}
    for path, text in files.items():
        package = path.partition("/")[0]
        counts = Counter(files=1, lines=len(text.splitlines()))
        if path.endswith(".py"):
            counts.update(PythonFile(text).counts())
        else:
            package += " (Lua)"
        packages.setdefault(package, Counter()).update(counts)
    return packages


def bounded_sizes(packages: Mapping[str, Counter[str]]) -> dict[str, int]:
    """Return the tokens and files that have a bound, under their names in `BOUNDS`."""
    sizes = {}
    for names in (("service", "gmn_client"), ("training",), ("model",)):
        total = Counter[str]()
        for name in names:
            total.update(packages[name])
        for unit in ("tokens", "files"):
            sizes[f"{unit} of {' and '.join(names)}"] = total[unit]
    return {name: size for name, size in sizes.items() if name in BOUNDS}


def import_circle(files: Mapping[str, str]) -> tuple[str, ...]:
    """Find Python files of which each imports the next, and the last is the first again.

    Args:
        files: their texts, by path below the folder that modules are imported from.

    Returns:
        The paths of one circle; empty if there is none.
    """
    modules = {_module(path): path for path in files if path.endswith(".py")}
    imports = {}
    for path in modules.values():
        names = _imported(files[path], modules)
        imports[path] = {modules[name] for name in names} - {path}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        # graphlib lists an imported file before the file that imports it.
        return tuple(reversed(error.args[1]))
    return ()


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imported(text: str, modules: Mapping[str, str]) -> Iterator[str]:
    """Yield the modules that a file imports at any depth; ``from a import b`` may import a.b."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                if submodule in modules:
                    yield submodule
                elif node.module in modules:
                    yield str(node.module)


def main(
    train: Annotated[bool, typer.Option("--train", help="Trace a training.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the functions of each way.")] = False,
    places: Annotated[
        str, typer.Option(metavar="KIND", help=f"List the places of one of {', '.join(KINDS)}.")
    ] = "",
) -> None:
    """Print sizes, legibility, bounds, a circle of imports, and ways."""
    files = read_files()
    if places:
        _print_places(files, places)
        return
    packages = count_packages(files)
    ways = training_ways() if train else request_ways()
    bounded = bounded_sizes(packages)
    for package, counts in packages.items():
        units = [unit for unit in ("files", "lines", "tokens") if unit in counts]
        typer.echo(f"{package}: {_figures({unit: counts[unit] for unit in units})}")
    for package, ceiling in CEILINGS.items():
        legibility = Legibility.of(packages[package])
        typer.echo(f"legibility of {package}: {_figures(legibility._asdict())}")
        typer.echo(f"    at most: {_figures(ceiling._asdict())}")
    for way, entered in ways.items():
        figures = summary(entered)
        typer.echo(f"{way}: {_figures(figures)}")
        bounded |= {f"{unit} of {way}": figures[unit] for unit in ("functions", "files")}
    for name, figure in bounded.items():
        typer.echo(f"{name}: {figure}, at most {BOUNDS[name]}")
    if circle := import_circle(files):
        typer.echo(f"circle: {', '.join(circle)}")
    if list_:
        for way, entered in ways.items():
            typer.echo(f"\n{way}")
            functions = [(file, name) for file, name, _ in entered]
            for file, name in dict.fromkeys(functions):
                typer.echo(f"    {file}  {name}")


def _figures(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{figure:g} {unit}" for unit, figure in figures.items())


def _print_places(files: Mapping[str, str], kind: str) -> None:
    if kind not in KINDS:
        raise typer.BadParameter(f"give one of {', '.join(KINDS)}", param_hint="--places")
    for path, text in files.items():
        places = PythonFile(text).places() if path.endswith(".py") else ()
        for place in sorted(places):
            if place.kind == kind:
                typer.echo(f"{path}:{place.line}: {place.text[:150]}")


if __name__ == "__main__":
    typer.run(main)
