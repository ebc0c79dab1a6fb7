"""The files of docs/single.md: accepted by what reads them, with the limits of the service."""

import re
import sys

from service.commands.processes import DRAIN_SECONDS
from service.settings import Settings
from tests.docker.conftest import ROOT, text_of
from tests.outside import certificate_in, installed, run_command

PAGE = text_of("docs/single.md")
UNIT, CADDY, NGINX = (
    text_of(f"docker/{name}") for name in ("gmn.service", "Caddyfile", "nginx.conf")
)


def accepted(*command):
    ran = run_command(*command)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_systemd_accepts_the_unit_and_calls_it_well_protected(tmp_path):
    analyze = installed("systemd-analyze")
    unit = tmp_path / "gmn.service"
    # The program is looked for.
    unit.write_text(UNIT.replace("/opt/gmn/bin/gmn", sys.executable))
    assert accepted(analyze, "verify", "--man=no", unit) == ""
    accepted(analyze, "security", "--offline=yes", "--threshold=30", unit)


def test_the_unit_waits_for_longer_than_the_service_drains_and_sets_what_there_is():
    assert int(re.search(r"TimeoutStopSec=(\d+)", UNIT)[1]) > DRAIN_SECONDS + 10
    known = {f"GMN_{name.upper()}" for name in Settings.model_fields}
    for text in (UNIT, PAGE, CADDY, NGINX):
        assert set(re.findall(r"\bGMN_[A-Z_]+", text)) <= known


def test_nginx_accepts_its_file(tmp_path):
    nginx = installed("nginx")
    certificate_in(tmp_path)
    own = NGINX
    for place in ("/etc/ssl/reid.example.org", "/var/log/nginx"):
        own = own.replace(place, str(tmp_path))
    whole = tmp_path / "nginx.conf"
    whole.write_text(f"pid {tmp_path}/pid; error_log stderr; events {{}}\nhttp {{ {own} }}\n")
    assert "successful" in accepted(nginx, "-t", "-p", tmp_path, "-c", whole)


def test_caddy_accepts_its_file():
    file = ROOT / "docker" / "Caddyfile"
    accepted(installed("caddy"), "validate", "--adapter", "caddyfile", "--config", file)


def test_both_proxies_have_the_limits_of_the_service_and_keep_metrics_inside():
    fields = Settings.model_fields
    units = {"m": 2**20, "g": 2**30, "MiB": 2**20, "GiB": 2**30}
    wanted = {fields[f"max_{kind}_bytes"].default for kind in ("body", "import")}
    limits = ((NGINX, r"client_max_body_size (\d+)(\w);"), (CADDY, r"max_size (\d+)(\w+)"))
    for text, limit in limits:
        assert {int(size) * units[unit] for size, unit in re.findall(limit, text)} == wanted
        assert "/metrics" in text
        assert "127.0.0.1:8000" in text
