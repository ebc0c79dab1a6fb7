"""An upgrade that dies at a step: a statement of SQL, or a change of a file or folder."""

import os
import signal
import sqlite3
import sys
from pathlib import Path

from service.settings import Settings
from service.upgrade import upgrade_data_directory

CHANGES = (
    "open",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.truncate",
    "sqlite3.connect",
)
CONNECT = sqlite3.connect


class Steps:
    def __init__(self, folder, last):
        self.count = 0
        self._folder = str(folder)
        self._last = last

    def hook(self, event, arguments):
        if event in CHANGES and str(arguments[0]).startswith(self._folder):
            self._step(event)

    def connect(self, *arguments, **options):
        connection = CONNECT(*arguments, **options)
        connection.set_trace_callback(self._step)
        return connection

    def _step(self, _):
        self.count += 1
        if self.count == self._last:
            os.kill(os.getpid(), signal.SIGKILL)


def upgrade(data, last, counted):
    """Upgrade a data directory and die at a step; without that, write the number of steps."""
    steps = Steps(Path(data).parent, int(last))
    sys.addaudithook(steps.hook)
    sqlite3.connect = steps.connect
    upgrade_data_directory(Settings(data_dir=Path(data)))
    Path(counted).write_text(str(steps.count), encoding="utf-8")
