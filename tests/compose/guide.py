"""The commands of docs/operations.md: every block marked `sh NAME`, by its name."""

from __future__ import annotations

import re
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs" / "operations.md"
_BLOCK = re.compile(r"^```sh([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks() -> dict[str, str]:
    """What is to be typed, in the guide's order; a block without a name is under the empty one."""
    return {name.strip(): text for name, text in _BLOCK.findall(GUIDE.read_text(encoding="utf-8"))}
