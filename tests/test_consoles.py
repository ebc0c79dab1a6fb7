"""Commands print what users wrote: none of it is taken for markup or the name of an emoji."""

import ast
import os

import pytest
from rich.progress import BarColumn

from gmn_client.commands.common import output, plain_table
from gmn_client.commands.terminal import make_progress
from tests.forked import run_gmn
from tests.test_rooms import ROOMS, sources
from training.commands.common import print_tables, progress_bar
from training.commands.train import training_bar
from training.evaluation.tables import Cell, Table

ODD = "[red]00:ab:11[/red] [/] :dog: 12"
# What is printed by a console that another file makes, and reads no markup by itself.
PRINTED = {"Group", "RenderableType", "Table", "Text", "decimal"}
COLUMNS = {"BarColumn", "MofNCompleteColumn", "TaskProgressColumn", "TimeRemainingColumn"}
# Types of arguments and results.
TYPES = {"Console", "Progress"}


def imported_from_rich(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "rich":
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("rich"))


def called(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield getattr(node.func, "id", getattr(node.func, "attr", ""))


def test_one_file_makes_all_consoles_and_no_other_reads_markup():
    (maker,) = sources("gmn_client/commands/terminal.py")
    files = [file for room in (*ROOMS[:-1], "gmn.py") for file in sources(room)]
    assert maker in files
    for file in files:
        tree = ast.parse(file.read_bytes())
        if file != maker:
            assert set(imported_from_rich(tree)) <= PRINTED | COLUMNS | TYPES, file
            assert not TYPES & set(called(tree)), file
        assert "from_markup" not in called(tree), file


@pytest.mark.parametrize(
    "arguments",
    [
        ["query", ODD],
        ["query", "a.png", "--box", ODD],
        ["enroll", ODD],
        ["enroll", "a.png", ODD],
        [ODD],
        ["query", f"--{ODD}"],
        ["train", ODD, "--data", "synthetic:1", "--out", "run"],
        ["train", "quick", "--data", ODD, "--out", "run"],
        ["query", "--data", f"manifest:{ODD}"],
        ["check-data", ODD],
        ["check-data", f"folder:{ODD}"],
        ["evaluate", ODD, "--data", "synthetic:1"],
        ["benchmark", ODD, "--data", "synthetic:1", "--out", "run"],
        ["store", "verify", "--data-dir", ODD],
        ["identities", "--url", ODD],
    ],
)
def test_an_error_names_what_was_given_as_it_is(arguments, tmp_path):
    ran = run_gmn(*arguments, cwd=tmp_path)
    assert ran.returncode == 2, ran.stdout + ran.stderr
    assert ODD in ran.stderr


@pytest.mark.parametrize(("odd", "shown"), [("small\r", r"'small\r'"), ("small ", "'small '")])
@pytest.mark.parametrize(
    "arguments",
    [
        ["query", "{}"],
        ["enroll", "{}"],
        ["train", "{}", "--data", "synthetic:1", "--out", "run"],
        ["train", "quick", "--data", "{}:7", "--out", "run"],
        ["check-data", "{}:7"],
        ["evaluate", "{}", "--data", "synthetic:1"],
        ["benchmark", "{}", "--data", "synthetic:1", "--out", "run"],
        ["finish", "{}"],
        ["calibrate", "{}", "--data", "synthetic:1"],
        ["store", "verify", "--data-dir", "{}"],
    ],
)
def test_an_error_shows_what_cannot_be_seen_in_a_name(arguments, odd, shown, tmp_path):
    ran = run_gmn(*(argument.format(odd) for argument in arguments), cwd=tmp_path)
    assert ran.returncode == 2, ran.stdout + ran.stderr
    # A part of a name is not in quotes.
    assert shown.strip("'") in ran.stderr
    assert "\r" not in ran.stderr


@pytest.mark.parametrize(("odd", "shown"), [("small\r", r"'small\r'"), ("small ", "'small '")])
def test_a_setting_shows_what_cannot_be_seen_in_a_name(odd, shown, tmp_path):
    environment = os.environ | {"GMN_ARTEFACT": odd, "GMN_PORT": "0", "GMN_DATA_DIR": "data"}
    ran = run_gmn("serve", env=environment, cwd=tmp_path)
    assert (ran.returncode, ran.stderr.count(f"{shown}: there is no shipped")) == (2, 1)


def test_tables_print_their_cells_and_titles_as_they_are(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    output().print(plain_table([f"title {ODD}"], [[ODD], [None]]))
    table = Table(f"title {ODD}", ["name", f"column {ODD}"], [[ODD, Cell(ODD, ODD)]], ODD)
    print_tables([table])
    printed = capsys.readouterr().out
    assert printed.count(ODD) == 8
    assert f"title {ODD}" in printed


def test_a_long_name_in_a_table_is_wrapped_and_not_cut_off(capsys):
    output().print(plain_table(["name"], [["n" * 256]]))
    assert capsys.readouterr().out.count("n") == 256 + len("n")


def test_bars_show_what_they_are_about_as_it_is(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    with progress_bar(ODD, 1) as advance:
        advance(1)
    with make_progress(BarColumn()) as bar:
        bar.add_task(ODD)
    with training_bar() as show_progress:
        show_progress(1, 2, {})
    shown = capsys.readouterr().err
    assert shown.count(ODD) >= 2
    assert "1/2" in shown
