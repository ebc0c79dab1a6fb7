"""HAProxy before the machines, by docker/haproxy.cfg."""

import re
import shutil
import subprocess
from pathlib import Path

import httpx2

from tests.outside import free_port
from tests.waiting import eventually

# Debian has it where a user's PATH does not lead.
PROGRAM = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
CONFIGURATION = Path(__file__).parents[2] / "docker" / "haproxy.cfg"


class Proxy:
    """The proxy of the deployment, for machines at fixed addresses, without TLS and keys.

    Args:
        folder: for its configuration and its log.
        ports: of the machines.
    """

    def __init__(self, folder, ports):
        port = free_port()
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60.0)
        configuration = folder / "haproxy.cfg"
        configuration.write_text(_with_addresses(CONFIGURATION.read_text(), port, ports))
        with (folder / "haproxy.log").open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, "-db", "-f", configuration], stdout=log, stderr=log
            )
        eventually(lambda: self.http.get("/readyz").is_success)

    def close(self):
        self._process.kill()
        self._process.wait()
        self.http.close()


def _with_addresses(configuration, port, ports):
    """Replace the certificate and the names of Docker.

    A service without keys refuses requests that were forwarded, so the proxy does not say so.
    """
    changed, count = re.subn(r"bind :8443 .*", f"bind 127.0.0.1:{port}", configuration)
    assert count == 1
    changed = re.sub(r"^resolvers .*?\n\n", "", changed, flags=re.MULTILINE | re.DOTALL)
    changed = re.sub(r"^ *default-server resolvers .*\n", "", changed, flags=re.MULTILINE)
    forwarded = r"^ *(option forwardfor|http-request set-header X-Forwarded-Proto .*)\n"
    changed, count = re.subn(forwarded, "", changed, flags=re.MULTILINE)
    assert count == 2
    changed, count = re.subn("hdr Host service", "hdr Host 127.0.0.1", changed)
    assert count == 1
    for name, machine in zip(("service", "service-b"), ports, strict=True):
        template = rf"server-template (\w+) 2 {name}:8000"
        changed, count = re.subn(template, rf"server \1 127.0.0.1:{machine}", changed)
        assert count
    return changed
