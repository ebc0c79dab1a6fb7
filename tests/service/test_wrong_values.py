"""Wrong values of calls, settings and options are refused in the project's words, no library's."""

import re

import pytest
import typer

import gmn
from model.problems import InputProblem
from service.settings import PREFIX, Settings, read_settings

LIBRARY = re.compile(
    r"Input should|unable to parse|Field required|(String|List|Tuple|Value) (should|error)|"
    r"valid (integer|number|boolean|date|string|list|dictionary)|ensure this"
)
WRONG = ("five", "-1", "9" * 40, "0.5", '{"a":')
# The types of fields that can be wrong.
CHECKED = {"integer", "number", "boolean"}


@pytest.fixture(scope="module")
def served(served_here):
    return served_here


def resolved(document, schema):
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def is_checked(document, schema):
    schema = resolved(document, schema)
    return (
        schema.get("type") in CHECKED
        or "enum" in schema
        or "format" in schema
        or any(is_checked(document, part) for part in schema.get("anyOf", ()))
        or ("items" in schema and is_checked(document, schema["items"]))
    )


def calls(document, gallery):
    """Yield each call that takes fields that can be wrong: method, path, query names and fields."""
    for path, methods in document["paths"].items():
        for method, call in methods.items():
            asked = [
                parameter["name"]
                for parameter in call.get("parameters", ())
                if parameter["in"] == "query" and is_checked(document, parameter["schema"])
            ]
            content = call.get("requestBody", {}).get("content", {})
            form = resolved(document, content.get("multipart/form-data", {}).get("schema", {}))
            fields = [
                name
                for name, schema in form.get("properties", {}).items()
                if is_checked(document, schema)
            ]
            if asked or fields:
                path_here = re.sub(r"\{\w+\}", "nowhere", path.replace("{gallery}", gallery))
                yield method.upper(), path_here, asked, fields


def test_no_call_answers_in_the_words_of_a_library(served, gallery):
    document = served.http.get("/openapi.json").json()
    for method, path, asked, fields in calls(document, gallery):
        statuses = set()
        for value in WRONG:
            answer = served.http.request(
                method,
                path,
                params=dict.fromkeys(asked, value),
                files=dict.fromkeys(fields, (None, value)) or None,
            )
            assert not LIBRARY.search(answer.text), f"{method} {path}: {answer.text}"
            statuses.add(answer.status_code)
        assert 422 in statuses, f"{method} {path}: {statuses}"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_no_setting_is_refused_in_the_words_of_a_library(monkeypatch, name):
    said = []
    for value in WRONG:
        monkeypatch.setenv(PREFIX + name.upper(), value)
        try:
            read_settings()
        except InputProblem as problem:
            said.append(str(problem))
    assert [message for message in said if LIBRARY.search(message)] == []


def options(command, words=("gmn",)):
    """Yield each sub-command with its words, and each of its options that takes a value."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from options(inner, (*words, name))
    if not hasattr(command, "commands"):
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.is_flag:
                yield command, words, parameter.opts[-1]


def test_no_option_is_refused_in_the_words_of_a_library(capsys):
    refused = 0
    for command, words, option in options(typer.main.get_command(gmn.make_app())):
        for value in ("five", "0.5"):
            try:
                command.make_context(" ".join(words), [option, value])
            except Exception as error:
                gmn._report(error, "serve")
                said = capsys.readouterr().err
                assert not LIBRARY.search(said), said
                refused += f"Invalid value for '{option}': it" in said
    assert refused > 20


def test_a_number_in_words_is_refused_for_what_it_is(monkeypatch):
    monkeypatch.setenv("GMN_PORT", "five")
    with pytest.raises(InputProblem, match="GMN_PORT: is not a whole number, but it is 'five'"):
        read_settings()
    monkeypatch.setenv("GMN_PORT", "8000")
    monkeypatch.setenv("GMN_LOG_LEVEL", "loud")
    with pytest.raises(InputProblem, match="GMN_LOG_LEVEL: may be 'debug', 'info', "):
        read_settings()
