"""The commands of the guides: every block marked `sh NAME`, by its name."""

import re
from pathlib import Path

PAGES = ("operations", "backups", "audit", "monitoring", "milvus", "postgres")
GUIDES = [Path(__file__).parents[2] / "docs" / f"{name}.md" for name in PAGES]
_BLOCK = re.compile(r"^```sh([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks():
    """Return the typed commands in the guides' order; unnamed blocks are under the empty name."""
    text = "".join(guide.read_text(encoding="utf-8") for guide in GUIDES)
    return {name.strip(): commands for name, commands in _BLOCK.findall(text)}
