"""The Lua scripts, each put together of what it shares and its own."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from importlib import resources

SHARED = ("prelude", "crops", "jobs")


@dataclass(frozen=True)
class Script:
    """A script's text, and the SHA-1 that Redis knows it by."""

    text: str
    sha1: str


@functools.cache
def script(name: str) -> Script:
    """The script of that name, with everything that scripts share before it."""
    folder = resources.files(__package__) / "lua"
    text = "\n".join(
        (folder / f"{part}.lua").read_text(encoding="utf-8") for part in (*SHARED, name)
    )
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
