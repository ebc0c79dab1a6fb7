"""Writes a unit of systemd, or a service of Compose, that runs `gmn camera frigate`."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from gmn_camera.broker import Broker
from gmn_client import __version__

Manager: TypeAlias = Literal["systemd", "compose"]
UNIT = """\
# Write this to /etc/systemd/system/gmn-frigate.service, then:
#   systemctl daemon-reload
#   systemctl enable --now gmn-frigate
[Unit]
Description=Compares the people whom Frigate sees with the watch lists
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
{user}
ExecStart={command}
{environment}{credentials}Restart=always
RestartSec=10
# With this status a setting, a password or the key is wrong.
RestartPreventExitStatus=2
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict

[Install]
WantedBy=multi-user.target
"""
COMPOSE = """\
# Write this to a file, then: docker compose -f FILE up -d
services:
  gmn-frigate:
    image: gmn-reid-camera:{version}
    command: {command}
{environment}{volumes}    # The addresses were tested from this machine.
    network_mode: host
    restart: unless-stopped
    read_only: true
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
"""


@dataclass(frozen=True)
class UnitSettings:
    """Settings of a bridge, as `gmn camera frigate` takes them.

    Attributes:
        frigate, url: addresses of Frigate and of the service.
        frigate_user: name of Frigate's user; None if it asks for none.
        frigate_password_file, password_file: files with the passwords, in place of `secrets`.
        frigate_certificate: PEM file with Frigate's own certificate.
        broker: the MQTT broker; its password is not written.
        prefix: `topic_prefix` in Frigate's configuration.
        min_height: pixels; lower people are not sent.
        secrets: file with the key and the passwords as NAME='VALUE'; None if there are none.
    """

    frigate: str
    frigate_user: str | None
    frigate_password_file: Path | None
    frigate_certificate: Path | None
    broker: Broker
    password_file: Path | None
    prefix: str
    min_height: int
    url: str
    secrets: Path | None

    @property
    def files(self) -> dict[str, Path]:
        """Return the files that the program reads itself, by the option that names each."""
        named = {
            "--frigate-password-file": self.frigate_password_file,
            "--frigate-certificate": self.frigate_certificate,
            "--password-file": self.password_file,
        }
        return {option: file.resolve() for option, file in named.items() if file is not None}

    @property
    def options(self) -> list[str]:
        """Return the options of the command line, but those of `files`."""
        values = {
            "--frigate": self.frigate,
            "--frigate-user": self.frigate_user,
            "--broker": self.broker.address,
            "--username": self.broker.username,
            "--prefix": self.prefix,
            "--min-height": str(self.min_height),
            "--url": self.url,
        }
        options = [f"{name}={value}" for name, value in values.items() if value is not None]
        return [*options, "--tls"] if self.broker.tls else options


def write_unit(manager: Manager, settings: UnitSettings) -> str:
    """Return the unit of systemd, or the file for Compose."""
    if manager == "systemd":
        return _write_systemd(settings)
    return _write_compose(settings)


def _write_systemd(settings: UnitSettings) -> str:
    user = getpass.getuser()
    environment = ""
    if settings.secrets is not None:
        environment = f"EnvironmentFile={_escape_percent(settings.secrets.resolve())}\n"
    words = [*_find_program(), "camera", "frigate", *settings.options]
    command = [_quote_for_systemd(word) for word in words]
    credentials = ""
    # systemd hands the files over, so that the user of the unit need not be able to read them.
    for option, file in settings.files.items():
        name = option.removeprefix("--")
        command.append(f"{option}=${{CREDENTIALS_DIRECTORY}}/{name}")
        credentials += f"LoadCredential={name}:{_escape_percent(file)}\n"
    return UNIT.format(
        user="DynamicUser=yes" if user == "root" else f"User={user}",
        command=" ".join(command),
        environment=environment,
        credentials=credentials,
    )


def _write_compose(settings: UnitSettings) -> str:
    environment = ""
    if settings.secrets is not None:
        environment = f"    env_file: {_quote_for_compose(str(settings.secrets.resolve()))}\n"
    words = ["camera", "frigate", *settings.options]
    volumes = ""
    if settings.files:
        words += [f"{option}={file}" for option, file in settings.files.items()]
        mounts = [_quote_for_compose(f"{file}:{file}:ro") for file in settings.files.values()]
        # The container may read what the user who set it up may read.
        volumes = f"    volumes: [{', '.join(mounts)}]\n"
        volumes += f'    user: "{os.getuid()}:{os.getgid()}"\n'
    return COMPOSE.format(
        version=__version__,
        command=f"[{', '.join(map(_quote_for_compose, words))}]",
        environment=environment,
        volumes=volumes,
    )


def _find_program() -> list[str]:
    """Return the command of this program, which a unit has to name by its whole path."""
    program = shutil.which("gmn")
    return [sys.executable, "-m", "gmn"] if program is None else [program]


def _escape_percent(file: Path) -> str:
    return str(file).replace("%", "%%")


def _quote_for_systemd(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return escaped if shlex.quote(word) == word else f'"{escaped}"'


def _quote_for_compose(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("$", "$$")
