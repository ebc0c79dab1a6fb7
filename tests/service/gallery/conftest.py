"""A process that serves the galleries of a record in a folder of the test."""

import contextlib

import pytest

from tests.service.gallery.served_process import ServedProcess


@pytest.fixture
def serve(tmp_path):
    with contextlib.ExitStack() as running:

        def start():
            process = ServedProcess(tmp_path)
            running.callback(process.close)
            return process

        yield start


@pytest.fixture
def process(serve):
    return serve()
