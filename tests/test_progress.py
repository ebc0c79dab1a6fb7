"""Where no terminal shows a bar, a command tells in lines what it does and how far it is."""

import threading
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

import gmn
from gmn_client.commands import terminal
from gmn_client.commands.terminal import tell_steps
from tests.training.runs import run_here
from tests.waiting import eventually
from training.commands.common import progress_bar
from training.commands.train import training_bar


@pytest.fixture
def is_told(monkeypatch, capsys):
    """Return a function that waits for the line of a text."""
    monkeypatch.setattr(terminal, "LINE_SECONDS", 0.01)
    lines = []

    def wait_for(text):
        def found():
            lines.extend(capsys.readouterr().err.splitlines())
            return any(line.startswith(text) for line in lines)

        eventually(found)
        lines.clear()
        return True

    return wait_for


def test_a_line_has_the_newest_bar_and_else_the_command(is_told, capsys):
    with tell_steps("gmn train"):
        assert is_told("gmn train: ")
        with progress_bar("Embedding mine", 3_000) as advance:
            assert is_told("Embedding mine: 0 of 3,000")
            advance(2_000)
            assert is_told("Embedding mine: 2,000 of 3,000")
            with progress_bar("Fitting", 0):
                assert is_told("Fitting: ")
            assert is_told("Embedding mine: 2,000 of 3,000")
        with training_bar() as show_progress:
            show_progress(1, 20, {"gmn": 0.5})
            assert is_told("Training, loss 0.500: 1 of 20")
        assert is_told("gmn train: ")
    capsys.readouterr()
    # Nobody tells of a bar that a program shows outside of all commands.
    with progress_bar("Embedding mine", 3) as advance:
        advance(1)
    assert capsys.readouterr().err == ""


def test_a_line_is_printed_as_often_as_the_interval_passes(monkeypatch, capsys):
    waited = []

    class Ended:
        def wait(self, seconds):
            waited.append(seconds)
            return len(waited) > 3

        def set(self):
            pass

    only_waits = SimpleNamespace(Event=Ended, Thread=threading.Thread)
    monkeypatch.setattr(terminal, "threading", only_waits)
    with tell_steps("gmn export"):
        pass
    assert waited == [10.0] * 4
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["gmn export"] * 3


def test_every_command_that_ends_by_itself_tells_its_steps(monkeypatch):
    silent = [name for name in gmn.COMMANDS if isinstance(gmn._told(name), nullcontext)]
    assert silent == ["serve", "camera", "api", "mcp"]
    # Of several processes that train together the first tells.
    monkeypatch.setenv("RANK", "1")
    assert isinstance(gmn._told("train"), nullcontext)


def test_what_a_command_prints_is_not_mixed_with_its_lines(monkeypatch):
    monkeypatch.setattr(terminal, "LINE_SECONDS", 0.001)
    ran = run_here("check-data", "synthetic:7,identities=16,domains=2")
    assert ran.status == 0
    assert "gmn check-data: 0 s" in ran.err
    assert "gmn check-data: " not in ran.out
