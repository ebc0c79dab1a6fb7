"""What starts `gmn camera frigate`: a unit of systemd, or a service of Compose."""

from __future__ import annotations

import getpass
import json
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
{environment}Restart=always
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
    def files(self) -> list[Path]:
        """Return the files that the program reads itself."""
        named = (self.frigate_password_file, self.frigate_certificate, self.password_file)
        return [file.resolve() for file in named if file is not None]

    @property
    def options(self) -> list[str]:
        values = {
            "--frigate": self.frigate,
            "--frigate-user": self.frigate_user,
            "--frigate-password-file": _resolve(self.frigate_password_file),
            "--frigate-certificate": _resolve(self.frigate_certificate),
            "--broker": self.broker.address,
            "--username": self.broker.username,
            "--password-file": _resolve(self.password_file),
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
        environment = f"EnvironmentFile={str(settings.secrets.resolve()).replace('%', '%%')}\n"
    words = [*_find_program(), "camera", "frigate", *settings.options]
    return UNIT.format(
        user="DynamicUser=yes" if user == "root" else f"User={user}",
        command=" ".join(map(_quote_for_systemd, words)),
        environment=environment,
    )


def _write_compose(settings: UnitSettings) -> str:
    environment = ""
    if settings.secrets is not None:
        environment = f"    env_file: {_quote_for_compose(str(settings.secrets.resolve()))}\n"
    volumes = [_quote_for_compose(f"{file}:{file}:ro") for file in settings.files]
    words = map(_quote_for_compose, ["camera", "frigate", *settings.options])
    return COMPOSE.format(
        version=__version__,
        command=f"[{', '.join(words)}]",
        environment=environment,
        volumes=f"    volumes: [{', '.join(volumes)}]\n" if volumes else "",
    )


def _find_program() -> list[str]:
    """Return the command of this program, which a unit has to name by its whole path."""
    program = shutil.which("gmn")
    return [sys.executable, "-m", "gmn"] if program is None else [program]


def _resolve(file: Path | None) -> str | None:
    return None if file is None else str(file.resolve())


def _quote_for_systemd(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return escaped if shlex.quote(word) == word else f'"{escaped}"'


def _quote_for_compose(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("$", "$$")
