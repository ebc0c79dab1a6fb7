"""The pages are short, the site lists each of them, and the commit hooks are the linters."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
GENERATED = re.compile(r"^<!-- ([\w-]+) -->\n.*?^<!-- /\1 -->\n", re.DOTALL | re.MULTILINE)
# A commit that raises a bound gives the reason.
LINES_OF_A_PAGE = 330
LINES_OF_THE_README = 112


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_without_its_generated_tables_is_short(page):
    text = GENERATED.sub("", page.read_text(encoding="utf-8"))
    assert len(text.splitlines()) <= LINES_OF_A_PAGE


def test_the_readme_is_short():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= LINES_OF_THE_README


def test_the_site_lists_every_page():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r": ([\w/-]+\.md)$", nav, re.MULTILINE)
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    hooks = (ROOT / "docs" / "site_hooks.py").read_text(encoding="utf-8")
    of_the_root = set(re.findall(r'^    "[A-Z]+\.md": "(\w+\.md)",$', hooks, re.MULTILINE))
    assert len(listed) == len(set(listed))
    assert set(listed) == pages | of_the_root


def test_the_commit_hooks_are_the_commands_of_make_lint():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lint = makefile.partition("\nlint: .venv/ready\n")[2].partition("\n\n")[0]
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in lint.splitlines()]
    configuration = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (local,) = configuration["repos"]
    hooks = [" ".join([hook["entry"], *hook.get("args", [])]) for hook in local["hooks"]]
    assert hooks == commands
