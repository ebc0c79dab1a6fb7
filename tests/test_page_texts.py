"""The texts of the page stand in one file a language, and are for people who know no program."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WEB = ROOT / "service" / "web"
SCRIPTS = sorted((WEB / "assets").glob("*.js"))
LANGUAGES = sorted((WEB / "assets" / "texts").glob("*.json"))
ENGLISH = json.loads((WEB / "assets" / "texts" / "en.json").read_text(encoding="utf-8"))
FOR_PROGRAMS = re.compile(r"\b[a-z]+_[a-z_]+\b|\bErrno\b|/v1/|\bInput should\b|\bTraceback\b")
READ_ALOUD = ("title", "placeholder", "aria-label", "alt")
# What stands in the document itself: what a person types as it stands, such as the name of a column
# of a file, and what is shown where no script runs.
LITERAL = ("code", "script", "style", "noscript")
COMMENT_OR_STRING = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`""", re.DOTALL
)
# A word with a capital, the end of a sentence, or a small word between others: classes, selectors
# and names of fields have none.
WORDS = re.compile(
    r"^[A-Z][a-z]+( |$|[.,:…])|[a-z][.?!…]$|^(the|an|of|is|are|was|to|in|by|at|and|no|not) "
    r"| (the|an|of|is|are|was|to|in|by|at|and|no|not)( |$)"
)
# Names of keys, headers, errors and objects, which the browser gives.
OF_THE_BROWSER = re.compile(
    r"^(Arrow(Left|Right|Up|Down)|Enter|Escape|Delete|Backspace|Authorization|Bearer …|AbortError"
    r"|Notification)$"
)
NAMED = re.compile(r"""\bt(?:extNodes)?\(\s*(?:"([^"]+)"|`([^`$]*)\$\{)""")
QUOTED_KEY = re.compile(r"""["'`]([a-z_0-9]+(?:\.[a-z_0-9]+)*)["'`]""")
IN_DOCUMENT = re.compile(r'data-t(?:-[a-z-]+)?="([^"]+)"')
PLACEHOLDER = re.compile(r"\{(\w+)\}")
CODE = re.compile(
    r'\b(?:CropProblem|_define_error|problem)\(\s*"([a-z_]+)"'
    r'|^    (?:code = |\d{3}: )"([a-z_]+)",?$',
    re.MULTILINE,
)


class Texts(HTMLParser):
    """The texts that stand in a document."""

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
    return [text.strip() for text in parser.texts if re.search(r"[^\W\d]", text)]


def texts_of_script(script):
    """Return the strings of a script that read like words for a person."""
    strings = [found[0] for found in COMMENT_OR_STRING.finditer(script) if found[0][0] in "\"'`"]
    # What is put in for a value is text of the service or of a person.
    plain = [re.sub(r"\$\{[^}]*\}", "…", text[1:-1]).strip() for text in strings]
    return [text for text in plain if WORDS.search(text) and not OF_THE_BROWSER.match(text)]


def keys_named(scripts, page):
    """Return the keys of texts that are named, and the beginnings of composed ones."""
    whole = set(IN_DOCUMENT.findall(page))
    beginnings = set()
    for script in scripts:
        for key, beginning in NAMED.findall(script):
            whole |= {key} - {""}
            beginnings |= {beginning} - {""}
    return whole, beginnings


def codes_of(source):
    """Return the codes of problems that a file of the service defines."""
    return {first or second for first, second in CODE.findall(source)}


def all_scripts():
    return [file.read_text(encoding="utf-8") for file in SCRIPTS]


def page():
    return (WEB / "index.html").read_text(encoding="utf-8")


def forms(text):
    return list(text.values()) if isinstance(text, dict) else [text]


def placeholders(text):
    """Return the names of the values of a text, without that of the number that chooses a form."""
    return set(PLACEHOLDER.findall(" ".join(forms(text)))) - {"count"}


def test_texts_in_code_are_found():
    shown = '<p title="Send it">A <code>path</code> of <b data-t="x">ids</b><i>1 · 2</i></p>'
    assert texts_of_page(shown) == ["Send it", "A", "of", "ids"]
    script = (
        """// a "Comment. Or two"\nh("p", {class: "row end"}, "Cancel", `${x} of it`, 'main > p')"""
    )
    assert texts_of_script(script) == ["Cancel", "… of it"]
    assert texts_of_script('event.key === "Enter"') == []
    for text in ("keeps its external_id", "[Errno 111] refused", "GET /v1/x", "Input should be"):
        assert FOR_PROGRAMS.search(text)


def test_no_text_stands_in_the_document():
    assert texts_of_page(page()) == []


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.name)
def test_no_text_stands_in_a_script(file):
    script = file.read_text(encoding="utf-8")
    # A language is offered by its own name.
    script = re.sub(r"LANGUAGES = \{.*?\}", "", script)
    assert texts_of_script(script) == []


def test_each_text_that_is_named_is_there():
    whole, beginnings = keys_named(all_scripts(), page())
    assert len(whole) > 300
    assert whole - set(ENGLISH) == set()
    assert [each for each in beginnings if not any(key.startswith(each) for key in ENGLISH)] == []


def test_each_text_is_used():
    whole, beginnings = keys_named(all_scripts(), page())
    quoted = {key for script in all_scripts() for key in QUOTED_KEY.findall(script)}
    unused = set(ENGLISH) - whole - quoted
    assert {key for key in unused if not key.startswith(tuple(beginnings))} == set()


@pytest.mark.parametrize("file", LANGUAGES, ids=lambda file: file.stem)
def test_a_language_has_every_text_and_no_other(file):
    texts = json.loads(file.read_text(encoding="utf-8"))
    assert texts.keys() == ENGLISH.keys()
    assert list(texts) == sorted(texts)
    for key, text in texts.items():
        assert isinstance(text, dict) == isinstance(ENGLISH[key], dict), key
        assert placeholders(text) == placeholders(ENGLISH[key]), key
        assert not isinstance(text, dict) or "other" in text, key
        assert all(form.strip() for form in forms(text)), key


@pytest.mark.parametrize("file", LANGUAGES, ids=lambda file: file.stem)
def test_a_text_names_no_field_and_no_library(file):
    texts = json.loads(file.read_text(encoding="utf-8"))
    shown = [form for text in texts.values() for form in forms(text)]
    assert [form for form in shown if FOR_PROGRAMS.search(PLACEHOLDER.sub("…", form))] == []


def test_codes_of_problems_are_found():
    code = 'x = CropProblem(\n    "too_small", f"…")\n    code = "bad"\n    404: "not_found",\n'
    assert codes_of(code) == {"too_small", "bad", "not_found"}


@pytest.mark.parametrize("file", LANGUAGES, ids=lambda file: file.stem)
def test_a_language_has_a_text_for_each_problem_of_the_service(file):
    sources = [
        source for folder in ("service", "model") for source in (ROOT / folder).rglob("*.py")
    ]
    codes = set().union(*(codes_of(source.read_text(encoding="utf-8")) for source in sources))
    assert len(codes) > 60
    texts = json.loads(file.read_text(encoding="utf-8"))
    assert {code for code in codes if f"problem.{code}" not in texts} == set()


def test_each_language_can_be_chosen():
    script = (WEB / "assets" / "texts.js").read_text(encoding="utf-8")
    offered = re.search(r"LANGUAGES = \{(.*?)\}", script)
    assert re.findall(r"(\w+):", offered[1]) == ["en", "de"]
    assert sorted(re.findall(r"(\w+):", offered[1])) == [file.stem for file in LANGUAGES]
