"""The address and API key of the service, from options of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import httpx2

from gmn_client import Client
from gmn_client.client import Retries
from gmn_client.errors import InvalidInput, RequestRefused
from gmn_client.models import Gallery

TIMEOUT_SECONDS = 30.0
MOST_SECRET_BYTES = 4096


class Service(NamedTuple):
    """Address and API key of the service.

    Attributes:
        url: address of the service.
        api_key: a key with the scope `sight`, and with `enroll` to store crops.
    """

    url: str
    api_key: str | None

    def connect(self) -> Client:
        """Return a client that makes one attempt per request, as the sender repeats requests."""
        retries = Retries(attempts=1)
        return Client(self.url, self.api_key, timeout=TIMEOUT_SECONDS, retries=retries)


def read_service(url: str, api_key: str | None, api_key_file: Path | None) -> Service:
    """Return the service that options of the command line name.

    Args:
        api_key_file: a file with the key, in place of `api_key`.

    Raises:
        InvalidInput: the file cannot be used.
    """
    if api_key_file is not None:
        api_key = read_secret("--api-key-file", api_key_file, "the API key")
    return Service(url, api_key)


def require_retention(client: Client, name: str) -> Gallery:
    """Return a gallery; refuse one that would keep everybody whom the cameras see.

    Raises:
        InvalidInput: there is no such gallery, or it deletes no crops.
        RequestRefused: the key is refused.
    """
    try:
        gallery = client.gallery(name)
    except RequestRefused as error:
        if error.problem.status != httpx2.codes.NOT_FOUND:
            raise
        raise InvalidInput(
            f"--enroll: there is no gallery {name!r}; make it (gmn gallery create {name} "
            "--retention-days 30)"
        ) from error
    if gallery.retention_days is None and gallery.retention_hours is None:
        raise InvalidInput(
            f"--enroll: gallery {name!r} would keep everybody whom the camera sees, as it deletes "
            f"no crops; set a retention (gmn gallery set {name} --retention-days 30), or "
            "make another gallery (gmn gallery create NAME --retention-days 30)"
        )
    return gallery


def read_secret(option: str, file: Path, content: str) -> str:
    """Return the single line of a file.

    Args:
        option: option of the command line that names the file.
        content: description of the line, for messages.

    Raises:
        InvalidInput: the file cannot be read, or has another number of lines.
    """
    try:
        with file.open("rb") as opened:
            lines = opened.read(MOST_SECRET_BYTES).decode().splitlines()
    except OSError as error:
        raise InvalidInput(
            f"{option}: {file} cannot be read ({error.strerror}); write {content} into it, and let "
            "the user of this program read it"
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{option}: {file} is no text; write {content} into it") from error
    if len(lines) != 1 or not lines[0].strip():
        found = f"{len(lines)} lines" if len(lines) > 1 else "nothing"
        raise InvalidInput(f"{option}: {file} has {found}; write {content} into it, in one line")
    return lines[0].strip()
