"""Counts of a Python file: its tokens, and patterns that make code hard to read."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

MAX_FUNCTION_TOKENS = 783
CODE = (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (ast.Module, ast.ClassDef, *FUNCTIONS)
LOOPS = (ast.For, ast.AsyncFor, ast.comprehension)
TERSE = {"attrgetter", "itemgetter", "map", "partial", "vars"}
VAGUE = {"one", "own", "kept", "found", "each"}
OPENING = re.compile(r"(Of|So many|That|Those|What|Whether|Which|Who)\b")
NOUN = re.compile(
    r"(A|All|An|At|Both|Crops|Each|Every|Features|For|In|Its|Names|On|One|Rows|Some|The|Their"
    r"|These|Up|With|Without)\b"
)
CLAUSE = re.compile(
    r"\b(what (a|are|had|has|is|it|no|others?|the|they|was|were)|that which|those that"
    r"|so many|so much|of what|whoever|whatever|for want of)\b",
    re.IGNORECASE,
)
PROPERTY = re.compile(r"property|computed_field")
DIRECTIVE = re.compile(r"# ?(type|noqa|pragma|mypy|ruff|fmt)")


class Place(NamedTuple):
    """A line with one of the patterns; `kind` is the name of its count in `Legibility`."""

    kind: str
    line: int
    text: str


class Legibility(NamedTuple):
    """Counts of patterns in the code of one package, and two ratios; the lower, the easier to read.

    Attributes:
        packed: assignments of several values in one statement, as in ``a, b = x, y``.
        terse: calls of ``map``, ``partial``, ``vars``, ``attrgetter`` and ``itemgetter``.
        opening: docstrings and comments that begin with "What", "Whether", "Of" and the like.
        noun: docstrings of functions, other than properties, that do not begin with a verb.
        clause: phrases of `CLAUSE` in docstrings and comments, most of which stand for a noun.
        vague: loops over variables called one, own, kept, found or each.
        long: functions of more than `MAX_FUNCTION_TOKENS` tokens.
        tokens_per_line: mean of the lines of code, rounded to a tenth.
        documented: percentage of the functions that have a docstring.
    """

    packed: int
    terse: int
    opening: int
    noun: int
    clause: int
    vague: int
    long: int
    tokens_per_line: float
    documented: int

    @classmethod
    def of(cls, counts: Counter[str]) -> Legibility:
        """Compute the measures from the summed `PythonFile.counts` of a package."""
        tokens_per_line = round(counts["tokens"] / counts["lines of code"], 1)
        documented = round(100 * counts["documented"] / counts["functions"])
        return cls._make([*(counts[kind] for kind in KINDS), tokens_per_line, documented])


KINDS = Legibility._fields[:7]


class PythonFile:
    """A Python file, parsed and split into tokens.

    Attributes:
        nodes: the nodes of its syntax tree.
        line_tokens: names, operators, numbers and strings that begin on a line, by its number;
            docstrings and comments do not count.
        comments: the text of each block of comments, by the number of its first line.
    """

    def __init__(self, text: str) -> None:
        self.nodes = list(ast.walk(ast.parse(text)))
        self.line_tokens = Counter[int]()
        self.comments: dict[int, str] = {}
        self._lines = text.splitlines()
        self._docstrings = {
            node.body[0].lineno: node
            for node in self.nodes
            if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False)
        }
        self._read_tokens(text)

    def _read_tokens(self, text: str) -> None:
        block = 0
        last_comment = 0
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            line = token.start[0]
            is_docstring = token.type == tokenize.STRING and line in self._docstrings
            if token.type in CODE and not is_docstring:
                self.line_tokens[line] += 1
            elif token.type == tokenize.COMMENT and not DIRECTIVE.match(token.string):
                if line != last_comment + 1:
                    block = line
                last_comment = line
                comment = token.string.lstrip("# ")
                self.comments[block] = f"{self.comments.get(block, '')} {comment}".strip()

    def counts(self) -> Counter[str]:
        """Count tokens, lines of code, functions, those with a docstring, and places by kind."""
        counts = Counter(place.kind for place in self.places())
        counts["tokens"] = self.line_tokens.total()
        counts["lines of code"] = len(self.line_tokens)
        counts["functions"] = _count_functions(self.nodes)
        counts["documented"] = _count_functions(self._docstrings.values())
        return counts

    def places(self) -> Iterator[Place]:
        """Find the places of every kind, in no particular order."""
        for node in self.nodes:
            if isinstance(node, ast.Assign) and _is_packed(node):
                yield self._place("packed", node)
            elif isinstance(node, ast.Call) and _function_name(node) in TERSE:
                yield self._place("terse", node)
            elif isinstance(node, LOOPS) and not VAGUE.isdisjoint(_names(node.target)):
                yield self._place("vague", node.target)
            elif isinstance(node, FUNCTIONS) and self._tokens_of(node) > MAX_FUNCTION_TOKENS:
                yield self._place("long", node)
        for line, node in self._docstrings.items():
            prose = ast.get_docstring(node) or ""
            yield from _prose_places(prose, line, _begins_with_verb(node))
        for line, comment in self.comments.items():
            yield from _prose_places(comment, line, begins_with_verb=False)

    def _place(self, kind: str, node: ast.stmt | ast.expr) -> Place:
        line = node.lineno
        text = self._lines[line - 1]
        return Place(kind, line, text.strip())

    def _tokens_of(self, node: ast.stmt) -> int:
        last_line = node.end_lineno or node.lineno
        return sum(self.line_tokens[line] for line in range(node.lineno, last_line + 1))


def _count_functions(nodes: Iterable[ast.AST]) -> int:
    return sum(isinstance(node, FUNCTIONS) for node in nodes)


def _is_packed(node: ast.Assign) -> bool:
    return isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple)


def _function_name(call: ast.Call) -> str:
    match call.func:
        case ast.Name(name) | ast.Attribute(ast.Name("functools" | "operator"), name):
            return name
    return ""


def _names(target: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(target) if isinstance(node, ast.Name)}


def _begins_with_verb(node: ast.AST) -> bool:
    if not isinstance(node, FUNCTIONS):
        return False
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    return not any(PROPERTY.search(decorator) for decorator in decorators)


def _prose_places(
    text: str,
    line: int,
    begins_with_verb: bool,
) -> Iterator[Place]:
    prose = " ".join(text.split())
    if OPENING.match(prose):
        yield Place("opening", line, prose)
    elif begins_with_verb and NOUN.match(prose):
        yield Place("noun", line, prose)
    for clause in CLAUSE.finditer(prose):
        start = max(0, clause.start() - 60)
        yield Place("clause", line, prose[start : start + 150])
