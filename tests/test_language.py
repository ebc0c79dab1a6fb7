"""The few rules of language that a program can check."""

import ast
import io
import re
import subprocess
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("gmn_client", "gmn_camera", "model", "training", "service", "demo", "bench", "gmn.py")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
OPENING = re.compile(r"(Of|So many|That|Those|What|Whether|Which|Who)\b")
ENROL = re.compile(r"\benrol(s|ment|ments)?\b", re.IGNORECASE)


def unclear_openings(text):
    """Return the first lines of docstrings and comments that open a subordinate clause."""
    tree = ast.parse(text)
    prose = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, DOCUMENTED)]
    follows_comment = False
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if not follows_comment:
                prose.append(token.string.lstrip("# "))
            follows_comment = True
        elif token.type != tokenize.NL:
            follows_comment = False
    return [words.splitlines()[0] for words in prose if words and OPENING.match(words)]


def packed_assignments(text):
    """Return the statements that assign several values at once, as in `a, b = 1, 2`."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Tuple)
        and isinstance(node.value, ast.Tuple)
    ]


def tracked(*patterns):
    command = ["git", "ls-files", "-z", "--", *patterns]
    names = subprocess.check_output(command, cwd=ROOT, text=True).split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_unclear_openings_and_packed_assignments_are_found():
    text = '"""What it is."""\n# Whether it\n# That is so.\na, b = 1, 2\n# One.\nc, d = pair\n'
    assert unclear_openings(text) == ["What it is.", "Whether it"]
    assert packed_assignments(text) == ["a, b = (1, 2)"]


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_and_comments_are_sentences_and_a_statement_assigns_one_value(package):
    for file in tracked(package):
        if file.suffix == ".py":
            text = file.read_text(encoding="utf-8")
            assert (unclear_openings(text), packed_assignments(text)) == ([], []), file


def test_enroll_has_one_spelling():
    for file in tracked(*PACKAGES, "*.md"):
        if file.suffix in (".py", ".md", ".js", ".html", ".toml"):
            assert not ENROL.search(file.read_text(encoding="utf-8")), file
