"""The address of a server of PostgreSQL: its parameters, and the ones that are refused."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from gmn_client.addresses import without_secrets

Parameters = dict[str, Any]
SCHEMES = ("postgresql://", "postgres://")
FORM = "postgresql://USER@HOST/NAME"
ENCODED = (
    "a user and a password in it need each of @ : / ? # % and space as %40 %3A %2F %3F %23 %25 and "
    "%20, or give the password in the file of GMN_DATABASE_PASSWORD_FILE"
)
# Parts of errors of libpq and of poolers, and what remedies them.
REMEDIES = {
    "session is read-only": (
        "default_transaction_read_only is on for the server, the database or this role; ALTER ROLE "
        "… RESET default_transaction_read_only, or free the disk for which the provider has set it"
    ),
    "unsupported startup parameter": (
        "a pooler between refuses it; leave it out of the URL and of the environment (PG… "
        "variables), or name it in ignore_startup_parameters of PgBouncer"
    ),
    "transaction blocks not allowed in statement pooling mode": (
        "a pooler between has to pool by session: set pool_mode=session in PgBouncer"
    ),
}
# A word of `options`, in which a backslash quotes a character.
OPTION_WORD = re.compile(r"(?:\\.|[^\s\\])+", re.DOTALL)
# Lists with an element for each of several hosts, and the variables that libpq reads without them.
HOST_VARIABLES = {"host": "PGHOST", "hostaddr": "PGHOSTADDR", "port": "PGPORT"}


class UnusableAddress(psycopg.ProgrammingError):
    """A URL that cannot be used; the message shows no part that may belong to a password."""


def read_address(url: str) -> Parameters:
    """Return the parameters of libpq that a URL, or a list such as `host=db user=gmn`, names.

    Raises:
        UnusableAddress: it cannot be used.
    """
    is_url = url.startswith(SCHEMES)
    if not is_url and not re.match(r"\s*\w+\s*=", url):
        raise UnusableAddress(
            f"is no URL of PostgreSQL; write it like {FORM}, without the name of a driver before "
            "the colon"
        )
    try:
        parameters = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise UnusableAddress(_explain_unread(url)) from None
    path = url.partition("://")[2].partition("?")[0].partition("/")[2]
    hosts = str(parameters.get("host", "")).split(",")
    ports = str(parameters.get("port", "")).split(",")
    if (
        (is_url and "@" in path)
        or any(re.search(r"[@\s]", host[1:]) for host in hosts)
        or not all(port == "" or (port.isascii() and port.isdigit()) for port in ports)
    ):
        raise UnusableAddress(
            f"its host, port or database is malformed; write it like {FORM}: {ENCODED}"
        )
    return parameters


def _explain_unread(url: str) -> str:
    query = url.partition("?")[2] if url.startswith(SCHEMES) else ""
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    names = [pair.partition("=")[0] for pair in query.split("&") if pair]
    unknown = [name for name in names if re.fullmatch("[a-z_]+", name) and name not in known]
    if unknown and "@" not in query:
        return f"libpq has no parameter {', '.join(unknown)}; leave it out of the URL"
    return f"libpq cannot read it; write it like {FORM}: {ENCODED}"


def split_options(options: str) -> tuple[str, dict[str, str]]:
    """Split `options` of libpq into those that only the start can set, and settings of a session.

    A pooler passes on the settings of a session, but none of the start.

    Raises:
        UnusableAddress: a setting has no value.
    """
    words = iter(OPTION_WORD.findall(options))
    of_the_start = []
    settings = {}
    for word in words:
        if word == "-c":
            pair = next(words, "")
        elif word.startswith(("-c", "--")):
            pair = word[2:]
        else:
            of_the_start.append(word)
            continue
        name, equals, value = re.sub(r"\\(.)", r"\1", pair, flags=re.DOTALL).partition("=")
        if not name or not equals:
            raise UnusableAddress("options: write each setting like -csearch_path=SCHEMA")
        settings[name.replace("-", "_").lower()] = value
    return " ".join(of_the_start), settings


def begin_with(parameters: Parameters, host: str, port: int) -> Parameters:
    """Return the parameters with the one of several hosts first that has answered."""
    lists = {
        name: str(parameters.get(name) or os.environ.get(variable, "")).split(",")
        for name, variable in HOST_VARIABLES.items()
    }
    # libpq calls a host by its address where it has no name.
    names = lists["host"] if any(lists["host"]) else lists["hostaddr"]
    ports = lists["port"] if len(lists["port"]) == len(names) else lists["port"] * len(names)

    def is_another(index: int) -> bool:
        return names[index] != host or ports[index] not in ("", str(port))

    order = sorted(range(len(names)), key=is_another)
    return parameters | {
        name: ",".join(values[index] for index in order)
        for name, values in lists.items()
        if len(values) == len(names) > 1
    }


def names_of_environment(environment: Mapping[str, str]) -> set[str]:
    """Return the parameters that variables of libpq name, such as PGCONNECT_TIMEOUT."""
    return {
        option.keyword.decode()
        for option in psycopg.pq.Conninfo.get_defaults()
        if option.envvar and environment.get(option.envvar.decode())
    }


def sentence_of(error: BaseException) -> str:
    """Return an error of psycopg in one line, without passwords, and with a remedy if known."""
    if isinstance(error, UnusableAddress):
        return str(error)
    text = without_secrets(" ".join(str(error).split()))
    remedies = [remedy for part, remedy in REMEDIES.items() if part in text]
    return "; ".join([text, *remedies])
