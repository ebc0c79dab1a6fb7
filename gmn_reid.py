"""The packages of gmn-reid, which a program finds beside this file once it has imported it.

They are named `model`, `training`, `service` and so on, as packages of other projects may be.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("bench", "demo", "gmn_camera", "model", "service", "training")


def _require_own_packages() -> None:
    own = Path(__file__).parent
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None:
            # Its import will say so.
            continue
        # A folder without an `__init__.py` has no file, and one or more places.
        first = spec.origin or next(iter(spec.submodule_search_locations or ()))
        if not Path(first).is_relative_to(own / package):
            raise ImportError(
                f"{first} shadows the package {package} of gmn-reid in {own}; rename it, or run "
                "gmn-reid from another folder, in an environment of its own, which "
                "pipx install 'gmn-reid[serve]' makes"
            )


_require_own_packages()
