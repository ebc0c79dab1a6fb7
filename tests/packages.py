"""An environment that has only some of the installed packages."""

import importlib.metadata
import os

from packaging.utils import canonicalize_name

from bench.packages import CLIENT, LIGHT_REQUIREMENTS, PROJECT, REQUIREMENTS, read_pins


def light_environment(folder):
    """Return variables under which Python finds only the packages of `requirements-serve.txt`.

    Args:
        folder: where the module that hides the others is written.
    """
    # faiss-gpu takes the place of faiss-cpu here, and needs CUDA.
    cuda = [name for name in read_pins(REQUIREMENTS) if name.startswith("nvidia-")]
    own = (PROJECT["name"], CLIENT["name"])
    light = {*read_pins(LIGHT_REQUIREMENTS), *own, "faiss-gpu", *cuda}
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
