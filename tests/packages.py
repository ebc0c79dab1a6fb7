"""The packages that an extra of pyproject.toml brings, and an environment that has only some."""

import importlib.metadata
import os
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = "requirements.txt"
LIGHT_REQUIREMENTS = "requirements-serve.txt"
CAMERA_REQUIREMENTS = "requirements-camera.txt"


def read_pins(name):
    """Return the version of each package that a file of requirements names for this Python."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if "==" in line]
    return {
        canonicalize_name(requirement.name): str(requirement.specifier).removeprefix("==")
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate()
    }


def requirements_of(extra):
    """Return what an extra requires here, the project's own requirements among it."""
    requirements = []
    for text in [*PROJECT["dependencies"], *EXTRAS[extra]]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            for other in requirement.extras:
                requirements += requirements_of(other)
        elif requirement.marker is None or requirement.marker.evaluate():
            requirements.append(requirement)
    return requirements


def packages_of(extra):
    """Return every package that an extra brings, by the metadata of the installed packages.

    faiss-cpu is not installed beside faiss-gpu: it needs numpy and packaging, as others do.
    """
    wanted = requirements_of(extra)
    packages = {}
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        new = {"", *requirement.extras} - packages.get(name, set())
        packages.setdefault(name, set()).update(new)
        if name == "faiss-cpu":
            continue
        for text in importlib.metadata.requires(name) or ():
            needed = Requirement(text)
            if needed.marker is None:
                is_needed = "" in new
            else:
                is_needed = any(needed.marker.evaluate({"extra": chosen}) for chosen in new)
            if is_needed:
                wanted.append(needed)
    return set(packages)


def light_environment(folder):
    """Return variables under which Python finds only the packages of `requirements-serve.txt`.

    Args:
        folder: where the module that hides the others is written.
    """
    # faiss-gpu takes the place of faiss-cpu here, and needs CUDA.
    cuda = [name for name in read_pins(REQUIREMENTS) if name.startswith("nvidia-")]
    light = {*read_pins(LIGHT_REQUIREMENTS), PROJECT["name"], "faiss-gpu", *cuda}
    hidden = {
        module
        for module, packages in importlib.metadata.packages_distributions().items()
        if light.isdisjoint(canonicalize_name(package) for package in packages)
    }
    # Python imports no module of which it knows that it is None, nor finds it.
    text = f"import sys\n\nsys.modules.update(dict.fromkeys({sorted(hidden)!r}))\n"
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path}
