"""PgBouncer before a server of `tests.postgres`."""

import contextlib
import socket
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

from tests.outside import free_port, installed
from tests.waiting import eventually


@contextlib.contextmanager
def pooler(server, schema, **settings):
    """Yield the URL of a schema of a server that leads through PgBouncer."""
    program = installed("pgbouncer")
    server.url(schema)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="gmn-pooler-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "users").write_text('"gmn" ""\n')
        given = {
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": folder / "users",
            "default_pool_size": 60,
            **settings,
        }
        lines = [
            "[databases]",
            f"postgres = host={server.folder}",
            "[pgbouncer]",
            *(f"{key} = {value}" for key, value in given.items()),
        ]
        file = folder / "pgbouncer.ini"
        file.write_text("\n".join(lines))
        with (folder / "log").open("wb") as log:
            # It refuses to be run by root, as the server does.
            process = subprocess.Popen([program, file], stdout=log, stderr=log, **server._user)

        def answers():
            assert process.poll() is None, (folder / "log").read_text()
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
                return True
            return False

        try:
            eventually(answers)
            options = quote(f"-c search_path={schema}")
            yield f"postgresql://gmn@127.0.0.1:{port}/postgres?options={options}"
        finally:
            process.kill()
            process.wait(30)
