"""Hooks of MkDocs: pages outside of docs/ join the site, and links to source files become text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# The pages of the repository's root, by their names on the site.
ROOT_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:)([^)#\s]+)(#[^)\s]+)?\)")
NAMED_FENCE = re.compile(r"^```(\w+) [^\n]+$", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    for name, place in ROOT_PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    docs = Path(config.docs_dir)
    # `on_files` has taken the folder out of the links of the root's pages.
    is_of_the_root = page.file.src_uri in ROOT_PAGES.values()
    bases = [docs, ROOT] if is_of_the_root else [(docs / page.file.src_uri).parent]

    def rewrite(link: re.Match[str]) -> str:
        label, target, anchor = link.groups()
        places = [(base / target).resolve() for base in bases if (base / target).exists()]
        if not places:
            raise PluginError(f"{page.file.src_uri}: {target} does not exist")
        found = places[0]
        if found.parent == ROOT and found.name in ROOT_PAGES:
            to_docs = "../" * page.file.src_uri.count("/")
            return f"[{label}]({to_docs}{ROOT_PAGES[found.name]}{anchor or ''})"
        is_on_the_site = found.is_file() and found.is_relative_to(docs)
        return link[0] if is_on_the_site else label

    # A name behind a block's language is for the tests that run the block.
    return LINK.sub(rewrite, NAMED_FENCE.sub(r"```\1", markdown))
