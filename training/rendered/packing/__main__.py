"""`python -m training.rendered.packing CLONES`: pack the meshes of two clones of MakeHuman."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.rendered.meshes import FILE
from training.rendered.packing.assets import Assets
from training.rendered.packing.pack import read_assets, write_meshes

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "clones", type=Path, help="the folder with clones of makehuman and makehuman-assets"
    )
    write_meshes(read_assets(Assets(parser.parse_args().clones)), FILE)
    print(FILE)  # noqa: T201
