"""Frigate's HTTP API as its versions 0.14 to 0.18 have it: log-in, configuration, pictures."""

from __future__ import annotations

import os
import re
import ssl
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import httpx2
from pydantic import Field, TypeAdapter, ValidationError

from gmn_camera.service import read_secret
from gmn_camera.terminal import ask_secret
from gmn_client.addresses import without_secret
from gmn_client.errors import InvalidInput, ServiceUnreachable
from gmn_client.proxies import require_address

Content = TypeVar("Content")
MOST_ANSWER_BYTES = 32 * 1024 * 1024
# Limits for the next bytes of an answer of Frigate, and for the whole answer.
TIMEOUT_SECONDS = 10.0
ANSWER_SECONDS = 30.0
# Frigate may limit how often a wrong password is tried, and then refuses the right one, too.
LOGIN_AGAIN_SECONDS = 60.0
OLDEST_VERSION = (0, 14)
VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})[\w.+-]{0,60}")
# Names of the frame without drawings on it, in Frigate's several versions.
CLEAN_PICTURES = ("snapshot-clean.webp", "snapshot-clean.png")
# Frigate's web server answers these while its program does not.
AWAY = (502, 503, 504)
# Versions before 0.15 answer a wrong password with the first.
LOGIN_REFUSED = (httpx2.codes.BAD_REQUEST, httpx2.codes.UNAUTHORIZED)
PASSWORD_VARIABLE = "GMN_CAMERA_FRIGATE_PASSWORD"
FRIGATE_URL = "http://127.0.0.1:5000"
PERSON = "person"
# The last second that `datetime` can represent, at the end of the year 9999.
LAST_SECOND = 253_402_300_799

# An id becomes a part of Frigate's URLs, and must not lead to anything but its event. The service
# takes a track's id of at most 64 characters.
EventId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$", max_length=64)]
CameraName = Annotated[str, Field(min_length=1, max_length=256)]
FrigateTime = Annotated[float, Field(ge=0, le=LAST_SECOND, allow_inf_nan=False)]
"""Seconds since 1970."""


class FrigateFailed(ServiceUnreachable):
    """Frigate does not answer, or answers with an error."""


class FrigateUnreachable(FrigateFailed):
    """Frigate cannot be reached, or is starting; the same request may succeed later."""


class FrigateRefused(FrigateFailed):
    """Frigate wants a user, or refuses the one that it got."""


class FrigateAnswer(NamedTuple):
    """An answer of Frigate."""

    status: int
    headers: httpx2.Headers
    content: bytes


@dataclass(frozen=True)
class FrigateUser:
    """A user of Frigate, as port 8971 asks for one."""

    name: str
    password: str = field(repr=False)


class FrigateApi:
    """Frigate's HTTP API: port 8971 asks for a user, port 5000 for none.

    Attributes:
        user: the user that logs in where Frigate asks for one.
    """

    def __init__(self, http: httpx2.Client, user: FrigateUser | None = None) -> None:
        self._http = http
        self._address = without_secret(str(http.base_url)).rstrip("/")
        self.user = user
        self._login_failed_at = float("-inf")

    def close(self) -> None:
        self._http.close()

    def version(self) -> str:
        """Return the version, such as `0.16.1-e9dc302`.

        Raises:
            FrigateFailed: no Frigate answers.
        """
        answer = self._ask_for("/api/version")
        text = answer.content[:100].decode("utf-8", "replace").strip()
        if VERSION.fullmatch(text) is None:
            raise FrigateFailed(
                f"{self._address}/api/version: the answer is no version of Frigate; check the "
                "address"
            )
        return text

    def read(self, path: str, form: TypeAdapter[Content], **parameters: Any) -> Content:
        """Return an answer in JSON.

        Raises:
            FrigateFailed: Frigate does not answer, or with something else.
        """
        answer = self._ask_for(path, params=parameters)
        try:
            return form.validate_json(answer.content)
        except ValidationError as error:
            raise FrigateFailed(
                f"{self._address}{path}: the answer is not as Frigate's ({describe_fault(error)}); "
                "check the address, and that Frigate is of version 0.14 to 0.18"
            ) from error

    def read_clean_picture(self, event_id: str) -> bytes | None:
        """Return the whole frame of an event that has ended; None if Frigate keeps none.

        Frigate's configuration may have `snapshot.jpg` of such an event cut, or a box drawn on it.

        Raises:
            FrigateFailed: Frigate does not answer, or with an error.
        """
        for name in CLEAN_PICTURES:
            answer = self.ask("GET", f"/api/events/{event_id}/{name}")
            if answer is not None:
                return answer.content
        return None

    def ask(self, method: str, path: str, **content: Any) -> FrigateAnswer | None:
        """Return Frigate's answer; None if it is 404.

        Raises:
            FrigateRefused: Frigate wants another user.
            FrigateFailed: Frigate does not answer, or its answer is an error, too large or too
                slow.
        """
        answer = self._send(method, path, content)
        if answer.status == httpx2.codes.UNAUTHORIZED and self.user is not None:
            # The user has not logged in so far, or Frigate ended the session.
            self._log_in(self.user)
            answer = self._send(method, path, content)
        if answer.status == httpx2.codes.NOT_FOUND:
            return None
        _require_success(self._address + path, answer)
        return answer

    def _ask_for(self, path: str, **content: Any) -> FrigateAnswer:
        answer = self.ask("GET", path, **content)
        if answer is None:
            raise FrigateFailed(f"{self._address}{path}: HTTP 404; check the address")
        return answer

    def _log_in(self, user: FrigateUser) -> None:
        if time.monotonic() - self._login_failed_at < LOGIN_AGAIN_SECONDS:
            raise FrigateRefused("Frigate has just refused the user; it is asked once a minute")
        named = {"user": user.name, "password": user.password}
        answer = self._send("POST", "/api/login", {"json": named})
        if 200 <= answer.status < 300:
            return
        self._login_failed_at = time.monotonic()
        if answer.status in LOGIN_REFUSED:
            raise FrigateRefused(
                f"--frigate-user: Frigate refuses the user {user.name!r} with this password; "
                "Settings, Users in Frigate has its users"
            )
        if answer.status == httpx2.codes.TOO_MANY_REQUESTS:
            raise FrigateRefused("too many log-ins have failed; Frigate wants a pause before more")
        raise FrigateFailed(f"{self._address}/api/login: HTTP {answer.status}")

    def _send(self, method: str, path: str, content: dict[str, Any]) -> FrigateAnswer:
        latest = time.monotonic() + ANSWER_SECONDS
        body = bytearray()
        url = self._address + path
        try:
            with self._http.stream(method, path, **content) as response:
                for part in response.iter_bytes():
                    body += part
                    if len(body) > MOST_ANSWER_BYTES:
                        raise FrigateFailed(f"{url}: more than {MOST_ANSWER_BYTES:,} bytes came")
                    if time.monotonic() > latest:
                        raise FrigateFailed(f"{url}: takes longer than {ANSWER_SECONDS:g} s")
        except httpx2.HTTPError as error:
            raise _translate(url, error) from error
        return FrigateAnswer(response.status_code, response.headers, bytes(body))


def _translate(url: str, error: httpx2.HTTPError) -> FrigateFailed:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return FrigateFailed(
            f"{url}: nobody whom this machine knows has signed Frigate's certificate ({error}); "
            "save the certificate, and name its file with --frigate-certificate"
        )
    return FrigateUnreachable(
        f"{url}: Frigate cannot be reached ({type(error).__name__}: {error}); see whether it "
        "runs, and check its address (--frigate)"
    )


def _require_success(url: str, answer: FrigateAnswer) -> None:
    if 200 <= answer.status < 300:
        return
    if answer.status == httpx2.codes.UNAUTHORIZED:
        raise FrigateRefused(
            f"{url}: Frigate asks for a user; name one with --frigate-user, or the address of "
            "Frigate's port 5000, which asks for none"
        )
    if answer.status == httpx2.codes.FORBIDDEN:
        raise FrigateRefused(
            f"{url}: Frigate's user lacks the right; give it the role admin, or use the address "
            "of Frigate's port 5000"
        )
    if b"sent to HTTPS port" in answer.content:
        raise FrigateFailed(f"{url}: this port is encrypted; begin the address with https://")
    if answer.status in AWAY:
        raise FrigateUnreachable(f"{url}: HTTP {answer.status}; Frigate is starting, or stands")
    raise FrigateFailed(f"{url}: HTTP {answer.status}")


def describe_fault(error: ValidationError) -> str:
    """Return where the first fault of what Frigate sent is, and what is wrong there."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"])) or "the whole"
    return f"{where}: {first['msg']}"


def parse_version(text: str) -> tuple[int, int]:
    """Return the first two numbers of a version of Frigate."""
    match = VERSION.match(text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def open_frigate(
    address: str, user: FrigateUser | None = None, certificate: Path | None = None
) -> FrigateApi:
    """Return the API at an address; nothing is asked yet.

    Args:
        certificate: PEM file with Frigate's own certificate, which nobody known has signed.

    Raises:
        InvalidInput: the address or the file cannot be used.
    """
    try:
        require_address(httpx2.URL(address))
    except httpx2.InvalidURL as error:
        raise InvalidInput(
            f"--frigate: {address.rpartition('@')[2]} is no address ({error}); write it like "
            "http://frigate.example:5000"
        ) from error
    verify = True if certificate is None else _trust_only(certificate)
    return FrigateApi(httpx2.Client(base_url=address, timeout=TIMEOUT_SECONDS, verify=verify), user)


def _trust_only(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Frigate writes no name of a host into the certificate that it makes.
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(certificate)
    except OSError as error:
        # An error of the TLS library has a text of its own in place of the system's.
        raise InvalidInput(
            f"--frigate-certificate: {certificate} cannot be read ({error.strerror or error}); "
            "name a file in PEM format, as openssl writes it"
        ) from error
    return context


def read_frigate_user(name: str | None, password_file: Path | None) -> FrigateUser | None:
    """Return the user of Frigate, with the password from a file, the environment or the terminal.

    Raises:
        InvalidInput: there is no password, or no user for it.
    """
    if name is None:
        if password_file is not None:
            raise InvalidInput("--frigate-password-file: name the user with --frigate-user, too")
        return None
    if password_file is not None:
        content = "the password of Frigate's user"
        return FrigateUser(name, read_secret("--frigate-password-file", password_file, content))
    password = os.environ.get(PASSWORD_VARIABLE)
    if not password and sys.stdin.isatty():
        password = ask_secret(f"Password of {name} in Frigate")
    if not password:
        raise InvalidInput(
            f"--frigate-user: the password of {name!r} is missing; write it into "
            f"{PASSWORD_VARIABLE}, or into the file --frigate-password-file"
        )
    return FrigateUser(name, password)
