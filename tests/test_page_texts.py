"""The texts of the page are for people who know no program: they name no field and no library."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

WEB = Path(__file__).parents[1] / "service" / "web"
SCRIPTS = sorted((WEB / "assets").glob("*.js"))
FOR_PROGRAMS = re.compile(r"\b[a-z]+_[a-z_]+\b|\bErrno\b|/v1/|\bInput should\b|\bTraceback\b")
READ_ALOUD = ("title", "placeholder", "aria-label", "alt")
# What a person types as it stands, such as the name of a column of a file.
LITERAL = ("code", "script", "style")
COMMENT_OR_STRING = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`""", re.DOTALL
)


class Texts(HTMLParser):
    """The visible texts of a page."""

    def __init__(self):
        super().__init__()
        self.texts = []
        self.literal = 0

    def handle_starttag(self, tag, attrs):
        self.literal += tag in LITERAL
        self.texts += [value for name, value in attrs if name in READ_ALOUD and value]

    def handle_endtag(self, tag):
        self.literal -= tag in LITERAL

    def handle_data(self, data):
        if not self.literal:
            self.texts.append(data)


def texts_of_page(page):
    parser = Texts()
    parser.feed(page)
    return [text.strip() for text in parser.texts if text.strip()]


def texts_of_script(script):
    """Return the sentences of a script: its strings that have spaces beside other signs."""
    strings = [found[0] for found in COMMENT_OR_STRING.finditer(script) if found[0][0] in "\"'`"]
    # What is put in for a value is text of the service or of a person.
    plain = [re.sub(r"\$\{[^}]*\}", "…", text[1:-1]).strip() for text in strings]
    return [text for text in plain if " " in text and not text.startswith("/v1/")]


def test_words_for_programs_are_found():
    page = '<p title="send top_k">A <code>top_k</code> of <b>external_id</b></p>'
    assert texts_of_page(page) == ["send top_k", "A", "of", "external_id"]
    script = """// a "top_k b"\nh("p", {}, "keeps its external_id", `/v1/x/${y}`, 'one top_k')"""
    assert texts_of_script(script) == ["keeps its external_id", "one top_k"]
    for text in ("keeps its external_id", "[Errno 111] refused", "GET /v1/x", "Input should be"):
        assert FOR_PROGRAMS.search(text)


def test_the_page_names_no_field_and_no_library():
    texts = texts_of_page((WEB / "index.html").read_text(encoding="utf-8"))
    assert len(texts) > 100
    assert [text for text in texts if FOR_PROGRAMS.search(text)] == []


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.name)
def test_a_script_names_no_field_and_no_library(file):
    texts = texts_of_script(file.read_text(encoding="utf-8"))
    assert [text for text in texts if FOR_PROGRAMS.search(text)] == []
