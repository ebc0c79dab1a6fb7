"""The packages of the environments and images: `python -m bench.packages FOLDER` lists them.

It writes a software bill of materials (CycloneDX, JSON) for each environment and image. Run it in
`.venv`, as the requirements of each package are read there. The packages of Debian and Python, on
which the images are built, are not listed.
"""

from __future__ import annotations

import importlib.metadata
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT, CLIENT = (
    tomllib.loads((ROOT / name).read_text(encoding="utf-8"))["project"]
    for name in ("pyproject.toml", "gmn_client/pyproject.toml")
)
EXTRAS: Mapping[str, list[str]] = PROJECT["optional-dependencies"]
REQUIREMENTS = "requirements.txt"
LIGHT_REQUIREMENTS = "requirements-serve.txt"
CAMERA_REQUIREMENTS = "requirements-camera.txt"
# Environments that make creates, and their requirements.
ENVIRONMENTS = {
    "venv": REQUIREMENTS,
    "venv-serve": LIGHT_REQUIREMENTS,
    "venv-camera": CAMERA_REQUIREMENTS,
}
# Images of docker/Dockerfile, and their extras.
IMAGES = {
    "image-service": ("serve", "milvus", "postgres"),
    "image-gpu": ("gpu", "milvus", "postgres"),
    "image-train": ("train",),
    "image-camera": ("camera", "mqtt"),
}
PYTHON = "3.11"


def read_pins(name: str) -> dict[str, str]:
    """Return the version of each package that a file of requirements names for this Python."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if "==" in line]
    return {
        canonicalize_name(requirement.name): str(requirement.specifier).removeprefix("==")
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate()
    }


def requirements_of(extra: str) -> list[Requirement]:
    """Return the requirements of an extra on this platform, with those of the client."""
    commands = CLIENT["optional-dependencies"]["cli"]
    requirements = []
    for text in [*CLIENT["dependencies"], *commands, *EXTRAS[extra]]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            for other in requirement.extras:
                requirements += requirements_of(other)
        elif requirement.marker is None or requirement.marker.evaluate():
            requirements.append(requirement)
    return requirements


def packages_of(extra: str) -> set[str]:
    """Return every package that an extra installs, by the metadata of the installed packages.

    faiss-cpu is not installed beside faiss-gpu: it needs packaging, and numpy as others do.
    """
    wanted = requirements_of(extra)
    packages: dict[str, set[str]] = {}
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        new = {"", *requirement.extras} - packages.get(name, set())
        packages.setdefault(name, set()).update(new)
        if name == "faiss-cpu":
            wanted.append(Requirement("packaging"))
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


def list_packages() -> dict[str, dict[str, str]]:
    """Return the packages of each environment and image, with their versions."""
    pins = read_pins(LIGHT_REQUIREMENTS) | read_pins(REQUIREMENTS)
    listed = {name: read_pins(file) for name, file in ENVIRONMENTS.items()}
    for image, extras in IMAGES.items():
        names = sorted(set().union(*(packages_of(extra) for extra in extras)))
        listed[image] = {name: pins[name] for name in names}
    return listed


def bill_of_materials(name: str, packages: Mapping[str, str]) -> str:
    """Return the CycloneDX document of an environment or image, with the project itself."""
    bom = Bom()
    own = Component(
        name=f"{PROJECT['name']} ({name})",
        version=PROJECT["version"],
        type=ComponentType.APPLICATION,
        bom_ref="project",
    )
    bom.metadata.component = own
    for package, version in sorted(packages.items()):
        url = PackageURL("pypi", name=package, version=version)
        component = Component(
            name=package,
            version=version,
            type=ComponentType.LIBRARY,
            purl=url,
            bom_ref=url.to_string(),
        )
        bom.components.add(component)
        bom.register_dependency(own, [component])
    return JsonV1Dot6(bom).output_as_string(indent=1)


def write_bills(folder: Path) -> list[Path]:
    files = []
    for name, packages in list_packages().items():
        file = folder / f"{PROJECT['name']}-{PROJECT['version']}-{name}.cdx.json"
        file.write_text(bill_of_materials(name, packages) + "\n", encoding="utf-8")
        files.append(file)
    return files


def main(arguments: Iterable[str]) -> None:
    (folder,) = arguments
    write_bills(Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
