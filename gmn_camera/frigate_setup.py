"""`gmn camera frigate --setup`: tests the addresses, makes the key, and prints a unit."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO, cast, get_args

import httpx2
from pydantic import AfterValidator, BaseModel, Field, TypeAdapter
from typer import echo

from gmn_camera.broker import Broker, read_broker, read_topic
from gmn_camera.endpoints import write_endpoint
from gmn_camera.frigate_api import (
    FRIGATE_URL,
    OLDEST_VERSION,
    PASSWORD_VARIABLE,
    PERSON,
    FrigateRefused,
    FrigateUser,
    open_frigate,
    parse_version,
    read_frigate_user,
)
from gmn_camera.frigate_units import Manager, UnitSettings, write_unit
from gmn_camera.service import read_service
from gmn_camera.terminal import ask, ask_secret
from gmn_client import DEFAULT_URL, Client
from gmn_client.commands.terminal import escape_controls
from gmn_client.errors import InvalidInput, KeyRefused, RequestRefused
from gmn_client.proxies import is_this_machine

PREFIX = "frigate"
BROKER_PASSWORD_VARIABLE = "GMN_CAMERA_MQTT_PASSWORD"
SECRETS = Path("/etc/gmn-frigate.env")
BROKER_SECONDS = 10.0
# From this version on only a user with this role may name an event.
ROLES_VERSION = (0, 16)
ADMIN = "admin"
# A message names the first of many cameras.
MOST_NAMES = 5


def _require_printable(text: str) -> str:
    # A line end would add a line to the unit, and a terminal obeys control characters.
    if not text.isprintable():
        raise ValueError("has control characters")
    return text


Printable = Annotated[str, Field(max_length=256), AfterValidator(_require_printable)]


class SnapshotSettings(BaseModel):
    """Settings of a camera's snapshots; from version 0.18 on Frigate always keeps a clean one."""

    enabled: bool = False
    clean_copy: bool = True


class TrackedObjects(BaseModel):
    """The kinds of objects that Frigate follows at a camera."""

    track: list[str] = []


class FrigateCamera(BaseModel):
    """Settings of a camera in Frigate."""

    enabled: bool = True
    snapshots: SnapshotSettings = SnapshotSettings()
    objects: TrackedObjects = TrackedObjects()


class FrigateMqtt(BaseModel):
    """The broker to which Frigate publishes."""

    enabled: bool = True
    host: Printable = ""
    port: int = 1883
    topic_prefix: Printable = PREFIX
    user: Printable | None = None


class FrigateConfig(BaseModel):
    """Settings of Frigate that matter to the bridge."""

    mqtt: FrigateMqtt = FrigateMqtt()
    cameras: dict[str, FrigateCamera] = {}


class FrigateProfile(BaseModel):
    """A user of Frigate; versions before 0.16 have no roles."""

    username: str | None = None
    role: str | None = None


@dataclass(frozen=True)
class SetupOptions:
    """Answers from the command line; None asks for one at the terminal.

    Attributes:
        frigate, url: addresses of Frigate and of the service.
        frigate_user, frigate_password_file: a user of Frigate, if it asks for one.
        frigate_certificate: PEM file with Frigate's own certificate.
        broker, username, password, password_file, tls: the MQTT broker.
        prefix: `topic_prefix` in Frigate's configuration.
        min_height: pixels; lower people are not sent.
        api_key, api_key_file: an administrator's key of the service, if it asks for keys.
        secrets: the file to write with the new key and the passwords.
        unit: what starts the bridge.
    """

    frigate: str | None
    frigate_user: str | None
    frigate_password_file: Path | None
    frigate_certificate: Path | None
    broker: str | None
    username: str | None
    password: str | None
    password_file: Path | None
    tls: bool
    prefix: str | None
    min_height: int
    url: str | None
    api_key: str | None
    api_key_file: Path | None
    secrets: Path | None
    unit: Manager | None


class Setup:
    """Tests Frigate, the service and the broker one after the other, and tells what is missing."""

    def __init__(self, options: SetupOptions, *, asks: bool) -> None:
        """Create a set-up that has not begun.

        Args:
            asks: whether somebody at a terminal answers what no option has answered.
        """
        self._options = options
        self._asks = asks
        self._missing = 0

    def run(self) -> int:
        """Print the unit to standard output and all else to standard error.

        Return the exit status, which is 1 if something is missing.

        Raises:
            InvalidInput: an answer cannot be used.
            KeyRefused: the service refuses the key.
            ServiceUnreachable: Frigate or the service does not answer, or refuses its user.
        """
        options = self._options
        address, user, config = self._set_up_frigate()
        url, admin_key = self._set_up_service()
        broker, prefix = self._set_up_broker(address, config)
        secrets = self._keep_secrets(url, admin_key, user, broker)
        manager = self._ask("Started by systemd or compose", options.unit, "systemd")
        if manager not in get_args(Manager):
            raise InvalidInput(f"--unit: {manager!r} is neither systemd nor compose")
        settings = UnitSettings(
            frigate=address,
            frigate_user=None if user is None else user.name,
            frigate_password_file=options.frigate_password_file,
            frigate_certificate=options.frigate_certificate,
            broker=broker,
            password_file=options.password_file,
            prefix=prefix,
            min_height=options.min_height,
            url=url,
            secrets=secrets,
        )
        echo(write_unit(cast(Manager, manager), settings), nl=False)
        if not self._missing:
            return 0
        echo("Something is missing, see above; put it right and run --setup again.", err=True)
        return 1

    def _set_up_frigate(self) -> tuple[str, FrigateUser | None, FrigateConfig]:
        options = self._options
        address = self._ask("Address of Frigate", options.frigate, FRIGATE_URL)
        _require_no_user("--frigate", address)
        user = read_frigate_user(options.frigate_user, options.frigate_password_file)
        with closing(open_frigate(address, user, options.frigate_certificate)) as frigate:
            try:
                version = frigate.version()
            except FrigateRefused as error:
                if user is not None or not self._asks:
                    raise
                echo(str(error), err=True)
                user = read_frigate_user(self._ask("User in Frigate", None, "admin"), None)
                frigate.user = user
                version = frigate.version()
            profile = frigate.read("/api/profile", TypeAdapter(FrigateProfile))
            config = frigate.read("/api/config", TypeAdapter(FrigateConfig))
        self._tell_ok(f"Frigate {version} answers at {address}")
        for problem in find_problems(version, profile, config):
            self._tell_missing(problem)
        return address, user, config

    def _set_up_service(self) -> tuple[str, str | None]:
        """Return the address of the service, and an administrator's key if it asks for keys."""
        options = self._options
        url = self._ask("Address of the service", options.url, DEFAULT_URL)
        _require_no_user("--url", url)
        try:
            with Client(url) as client:
                next(client.galleries(), None)
        except KeyRefused as error:
            key = read_service(url, options.api_key, options.api_key_file).api_key
            if key is None and self._asks:
                key = self._ask_secret("Key of the service with the scope admin")
            if not key:
                raise InvalidInput(
                    f"--api-key-file: the service at {url} asks for a key; give an administrator's "
                    "in this file or in GMN_API_KEY, which makes that of the bridge (gmn keys "
                    "create --scope admin makes one)"
                ) from error
        except RequestRefused as error:
            raise InvalidInput(
                f"--url: {url} answers, but not as this service does ({error}); check the address"
            ) from error
        else:
            self._tell_ok(f"the service answers at {url}, and asks for no key")
            return url, None
        with Client(url, key) as client:
            next(client.keys(), None)
        self._tell_ok(f"the service answers at {url}, and the key is an administrator's")
        return url, key

    def _set_up_broker(self, frigate_url: str, config: FrigateConfig) -> tuple[Broker, str]:
        """Return the broker, and the topic below which Frigate publishes."""
        options = self._options
        mqtt = config.mqtt
        host = mqtt.host
        if not host or is_this_machine(host):
            # Frigate tells where the broker is as seen from its own machine.
            host = httpx2.URL(frigate_url).host
        address = self._ask(
            "Address of the MQTT broker", options.broker, write_endpoint(host, mqtt.port)
        )
        username = options.username
        if username is None and mqtt.user is not None:
            username = self._ask("User at the broker", None, mqtt.user)
        password = options.password
        if username is not None and password is None and options.password_file is None:
            password = self._ask_secret(f"Password of {username} at the broker")
        broker = read_broker(address, username, password, options.password_file, tls=options.tls)
        prefix = read_topic("--prefix", options.prefix or mqtt.topic_prefix)
        problem = find_broker_problem(broker, prefix)
        if problem is None:
            self._tell_ok(f"the broker answers at {broker.address}, and Frigate is there")
        else:
            self._tell_missing(problem)
        return broker, prefix

    def _keep_secrets(
        self, url: str, admin_key: str | None, user: FrigateUser | None, broker: Broker
    ) -> Path | None:
        """Make the key, and write it and the passwords into a file if the user wants one.

        Return the file that the unit reads; None if it needs none.
        """
        options = self._options
        secrets = {}
        if user is not None and options.frigate_password_file is None:
            secrets[PASSWORD_VARIABLE] = user.password
        if broker.password is not None and options.password_file is None:
            secrets[BROKER_PASSWORD_VARIABLE] = broker.password
        lines = [_write_secret(name, value) for name, value in secrets.items()]
        names = [*secrets, *(["GMN_API_KEY"] if admin_key is not None else [])]
        if not names:
            return None
        file = options.secrets
        if file is None and self._asks:
            wanted = f"File to write {', '.join(names)} into, for you alone (empty for none)"
            named = ask(wanted)
            file = Path(named) if named else None
        if file is None:
            remark = "no key was made; gmn keys create --scope sight,query makes one"
            hint = f" ({remark})" if admin_key is not None else ""
            self._tell_missing(
                f"{', '.join(names)}: the unit needs this, and no file keeps it; name one with "
                f"--secrets, or write lines like {names[-1]}='…' into {SECRETS} yourself{hint}"
            )
            return SECRETS
        with _new_file(file) as opened:
            if admin_key is not None:
                with Client(url, admin_key) as client:
                    made = client.create_key("sight", "query", note="gmn camera frigate")
                lines.append(_write_secret("GMN_API_KEY", made.key))
                self._tell_ok(f"the key {made.key_id} with the scopes sight and query was made")
            opened.writelines(lines)
        self._tell_ok(f"{', '.join(names)}: written into {file}, which you alone can read")
        return file

    def _ask(self, question: str, given: str | None, default: str) -> str:
        """Return what an option has answered, or somebody at the terminal, or the default."""
        if given is not None or not self._asks:
            return given or default
        return ask(question, default)

    def _ask_secret(self, question: str) -> str | None:
        return ask_secret(question) if self._asks else None

    def _tell_ok(self, text: str) -> None:
        echo(escape_controls(f"ok: {text}"), err=True)

    def _tell_missing(self, text: str) -> None:
        echo(escape_controls(f"missing: {text}"), err=True)
        self._missing += 1


def find_problems(version: str, profile: FrigateProfile, config: FrigateConfig) -> Iterator[str]:
    """Yield what Frigate lacks, with the remedy."""
    number = parse_version(version)
    if number < OLDEST_VERSION:
        yield f"Frigate {version} is older than 0.14; update it"
    if number >= ROLES_VERSION and profile.role not in (None, ADMIN):
        yield (
            f"the user {profile.username!r} has the role {profile.role!r} in Frigate: people are "
            "compared and alerts are raised, but events get no names; give the user the role admin "
            "(Settings, Users)"
        )
    if not config.mqtt.enabled:
        yield (
            "Frigate publishes no events, as MQTT is off; write enabled: true and the broker's "
            "host: below mqtt: in Frigate's configuration"
        )
    cameras = {name: camera for name, camera in config.cameras.items() if camera.enabled}
    if not cameras:
        yield "Frigate has no camera that is on"
    unfollowed = [name for name, camera in cameras.items() if PERSON not in camera.objects.track]
    if unfollowed:
        yield (
            f"{_list(unfollowed)}: Frigate follows no people there; add person to track: below "
            "objects:"
        )
    without = [name for name, camera in cameras.items() if not camera.snapshots.enabled]
    if without:
        yield f"{_list(without)}: snapshots are off; write enabled: true below snapshots:"
    drawn = [name for name, camera in cameras.items() if not camera.snapshots.clean_copy]
    if drawn:
        yield (
            f"{_list(drawn)}: Frigate keeps no clean picture of an event that has ended; write "
            "clean_copy: true below snapshots:"
        )


def find_broker_problem(broker: Broker, prefix: str) -> str | None:
    """Return why Frigate's events cannot be read at a broker; None if they can."""
    answered = threading.Event()
    heard = threading.Event()
    refusals: list[str] = []

    def subscribe(client: Any, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        if reason.is_failure:
            refusals.append(str(reason))
        else:
            client.subscribe(f"{prefix}/available", qos=1)
        answered.set()

    client = broker.client("gmn-frigate-setup")
    client.on_connect = subscribe
    client.on_disconnect = None
    client.on_message = lambda _client, _data, _message: heard.set()
    try:
        client.connect(broker.host, broker.port)
    except OSError as error:
        # An error of a connection that takes too long has no text of the system.
        reason = error.strerror or str(error) or type(error).__name__
        return (
            f"{broker.address}: no broker answers there ({reason}); check --broker, and that the "
            "broker listens to other machines"
        )
    client.loop_start()
    try:
        if not answered.wait(BROKER_SECONDS):
            return f"{broker.address}: what answers there is no MQTT broker; check --broker"
        if refusals:
            return (
                f"{broker.address}: the broker refuses the connection ({refusals[0]}); check "
                f"--username, and its password in {BROKER_PASSWORD_VARIABLE} or --password-file"
            )
        if not heard.wait(BROKER_SECONDS):
            return (
                f"{broker.address}: the broker has no {prefix}/available, so Frigate publishes "
                "elsewhere; check --broker and --prefix"
            )
    finally:
        with suppress(OSError):
            client.disconnect()
        client.loop_stop()
    return None


def _require_no_user(option: str, address: str) -> None:
    # The address becomes a part of a unit, which others can read.
    if "@" in address:
        raise InvalidInput(
            f"{option}: leave user and password out of the address, which the unit shows to "
            "everybody; Frigate's user is --frigate-user"
        )


def _list(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    shown = ", ".join(names[:MOST_NAMES])
    return f"{shown} and {more} more" if more > 0 else shown


def _write_secret(name: str, value: str) -> str:
    """Return a line that systemd and Compose read as it stands.

    Raises:
        InvalidInput: the value has a character that such a line cannot hold.
    """
    if "'" in value or not value.isprintable():
        raise InvalidInput(
            f"{name}: has a quotation mark ' or a control character, which --secrets cannot keep; "
            "write the password into a file of its own, and name it with --password-file or "
            "--frigate-password-file"
        )
    return f"{name}='{value}'\n"


@contextmanager
def _new_file(file: Path) -> Iterator[TextIO]:
    """Create a file that its owner alone can read; remove it if the block fails.

    Raises:
        InvalidInput: the file exists, or cannot be created.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise InvalidInput(
            f"--secrets: {file} cannot be created ({error.strerror}); name another file"
        ) from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            yield opened
    except BaseException:
        file.unlink(missing_ok=True)
        raise
