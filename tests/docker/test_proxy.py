"""docker/haproxy.cfg passes the requests that the service takes, and hides internal paths."""

import re

import pytest

from service.settings import Settings
from tests.docker.conftest import text_of
from tests.outside import certificate_in, installed, run_command

pytestmark = pytest.mark.promise("hostile-http")

PROXY = text_of("docker/haproxy.cfg")
MACHINES = text_of("docker/haproxy-machines.cfg")


def test_the_limits_of_bodies_are_those_of_the_service():
    limits = dict(re.findall(r"413 if (!?an_import) .* gt (\d+)", PROXY))
    fields = Settings.model_fields
    assert int(limits["!an_import"]) == fields["max_body_bytes"].default
    assert int(limits["an_import"]) == fields["max_import_bytes"].default


def test_a_request_is_passed_on_only_to_containers_that_are_ready():
    assert "http-check send meth GET uri /readyz" in PROXY
    assert "http-check expect status 200" in PROXY
    assert "server-template container 2 service:8000" in PROXY


def test_both_machines_are_asked_but_for_what_belongs_to_one():
    servers = {
        name: re.findall(r"server-template (\w+) 2 (\S+):8000( backup)?$", text, re.MULTILINE)
        for name, text in re.findall(r"^backend (\w+)\n((?:    .*\n)+)", PROXY, re.MULTILINE)
    }
    first = ("container", "service", "")
    assert servers == {
        "service": [first, ("other", "service-b", "")],
        "exports": [first],
        "sightings": [first, ("other", "service-b", " backup")],
    }
    # The proxy starts without an address of theirs, as service-b has none without its profile.
    assert "init-addr none" in PROXY


def test_a_write_that_a_process_took_is_sent_to_another_only_under_its_key():
    assert re.findall(r"retry-on (.*)", PROXY) == ["conn-failure empty-response"]
    assert "http-request disable-l7-retry unless METH_GET or reads or keyed" in PROXY
    assert "acl reads path_end /queries /pairs /embeddings" in PROXY
    assert "option redispatch" in PROXY


def test_tls_ends_here_and_old_versions_are_refused(compose):
    assert "bind :8443 ssl crt /run/secrets/tls" in PROXY
    assert "ssl-min-ver TLSv1.2" in PROXY
    assert compose["services"]["proxy"]["secrets"] == ["tls"]


def test_metrics_are_not_passed_on_and_the_log_holds_no_path():
    assert "http-request return status 404 if { path,url_dec /metrics }" in PROXY
    (form,) = re.findall(r"log-format '(.*)'", PROXY)
    assert not set(re.findall(r"%[A-Za-z]+", form)) & {"%r", "%HU", "%HP", "%HPO", "%HQ"}


def test_a_slow_client_does_not_hold_a_connection_for_ever():
    timeouts = dict(re.findall(r"^    timeout (\S+) (\d+)s$", PROXY, re.MULTILINE))
    assert int(timeouts["http-request"]) <= 10
    assert int(timeouts["client"]) <= 60
    (at_once,) = re.findall(r"default-server .* maxconn (\d+)", PROXY)
    assert int(at_once) < Settings.model_fields["max_connections"].default


def _rules(text):
    """Return the lines of a configuration, without what names containers, machines and folders."""
    lines = re.sub(r"^resolvers .*?\n\n", "", text, flags=re.MULTILINE | re.DOTALL).splitlines()
    own = re.compile(r"#|server(-template)? |default-server resolvers|bind |timeout check |$")
    return [
        re.sub(r"container|machine|/etc/haproxy/|docker/", "", line)
        for line in lines
        if not own.match(line.strip())
    ]


def test_the_file_for_plain_machines_has_the_rules_of_the_deployment():
    assert _rules(MACHINES) == _rules(PROXY)
    servers = {
        name: re.findall(r"server (\w+) 192\.0\.2\.1[12]:8000( backup)?$", text, re.MULTILINE)
        for name, text in re.findall(r"^backend (\w+)\n((?:    .*\n)+)", MACHINES, re.MULTILINE)
    }
    first = ("one", "")
    assert servers == {
        "service": [first, ("two", "")],
        "exports": [first],
        "sightings": [first, ("two", " backup")],
    }


def test_haproxy_accepts_the_file_for_plain_machines(tmp_path):
    haproxy = installed("haproxy")
    key, certificate = certificate_in(tmp_path)
    both = tmp_path / "gmn.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    file = tmp_path / "haproxy.cfg"
    file.write_text(MACHINES.replace("/etc/haproxy/gmn.pem", str(both)))
    ran = run_command(haproxy, "-c", "-f", file)
    assert ran.returncode == 0, ran.stdout + ran.stderr
