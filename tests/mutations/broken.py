"""The ways in which the code is broken on purpose, as `broken.toml` lists them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).parent / "broken.toml"
OUTCOMES = ROOT / "docs" / "figures" / "reliability" / "mutations.json"


@dataclass(frozen=True)
class Broken:
    """One promise broken on purpose.

    Attributes:
        promise: its number in docs/reliability.md; 0 for other behaviour.
        says: the fault, as a sentence.
        file, old, new: the replacement of a text that stands once in the file.
        test: the test that has to fail, as pytest names it.
    """

    promise: int
    says: str
    file: str
    old: str
    new: str
    test: str

    def text(self, root):
        return (root / self.file).read_text().replace(self.old, self.new)


def read_broken():
    return [Broken(**entry) for entry in tomllib.loads(LIST.read_text())["broken"]]
