"""Plain words for the errors that pydantic finds in fields, settings and options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Context = Mapping[str, Any]

NOT_A_NUMBER = "is not a whole number; send digits alone, such as 10"
NOT_A_DECIMAL = "is not a number; send one such as 0.5"
NOT_A_TRUTH = "is neither true nor false; send one of the two"
NOT_A_TIME = "is not an RFC 3339 time with a time zone; send one such as 2026-03-01T09:30:00Z"
NOT_AN_OBJECT = "is not a JSON object; send one"

# By the type of the error; messages with a limit are filled from the error's context.
SENTENCES: Mapping[str, str | Callable[[Context], str]] = {
    "missing": "is missing; send it",
    "int_type": NOT_A_NUMBER,
    "int_parsing": NOT_A_NUMBER,
    "int_from_float": NOT_A_NUMBER,
    "int_parsing_size": "has too many digits; send a smaller number",
    "float_type": NOT_A_DECIMAL,
    "float_parsing": NOT_A_DECIMAL,
    "finite_number": "is not a finite number; send one such as 0.5",
    "bool_type": NOT_A_TRUTH,
    "bool_parsing": NOT_A_TRUTH,
    "datetime_type": NOT_A_TIME,
    "datetime_parsing": NOT_A_TIME,
    "timezone_aware": NOT_A_TIME,
    "dict_type": NOT_AN_OBJECT,
    "model_type": NOT_AN_OBJECT,
    "model_attributes_type": NOT_AN_OBJECT,
    "json_type": NOT_AN_OBJECT,
    "json_invalid": "is not JSON",
    "list_type": "is not a list; send one",
    "tuple_type": "is not a list; send one",
    "extra_forbidden": "there is no such field; leave it out",
    "string_type": "is not text; send a text",
    "string_too_short": lambda limit: (
        "is empty; send a value"
        if limit["min_length"] == 1
        else f"may have no fewer than {limit['min_length']} characters; send a longer text"
    ),
    "string_too_long": lambda limit: (
        f"may have at most {limit['max_length']} characters; send a shorter text"
    ),
    "too_short": lambda limit: f"needs at least {limit['min_length']} values; send more",
    "too_long": lambda limit: (
        f"may have at most {limit['max_length']} values; send fewer, or several requests"
    ),
    "less_than": lambda limit: f"must be less than {limit['lt']}; send a smaller number",
    "less_than_equal": lambda limit: f"may be at most {limit['le']}; send a smaller number",
    "greater_than": lambda limit: f"must be more than {limit['gt']}; send a larger number",
    "greater_than_equal": lambda limit: f"must be at least {limit['ge']}; send a larger number",
    "literal_error": lambda limit: f"has no such value; send {limit['expected']}",
    "enum": lambda limit: f"has no such value; send {limit['expected']}",
    "string_pattern_mismatch": lambda limit: (
        f"is not of the form {limit['pattern']}; send another value"
    ),
}


def describe_invalid(error: Mapping[str, Any]) -> str:
    """Return the reason and the remedy of an error of pydantic, to follow the name of its field.

    The value is not repeated, since it may be a secret.
    """
    sentence = SENTENCES.get(error["type"])
    if sentence is None:
        # Validators of the service, such as `read_moment`, raise errors in its own words.
        return str(error["msg"]).removeprefix("Value error, ")
    if isinstance(sentence, str):
        return sentence
    return sentence(error["ctx"])


def describe_reason(error: Mapping[str, Any]) -> str:
    """Return the reason alone, for values that are not sent, such as settings and options."""
    if error["type"] in ("literal_error", "enum"):
        return f"may be {error['ctx']['expected']}"
    reason, _, _ = describe_invalid(error).partition("; send")
    return reason
