"""`gmn train`: what it answers without training, and how it leaves when it is stopped."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import time
from pathlib import Path

import pytest
from PIL import Image

import gmn
from tests.forked import GMN, Forked, run_gmn

DATA = "synthetic:5,identities=10,domains=2,cameras=2,crops=2"
SETTINGS = (
    "initial_weights=none",
    "preprocessing.height=64",
    "preprocessing.width=32",
    "sampling.identities=4",
    "held_out.fraction=0.3",
)


def command(recipe: str, *more: str) -> list[str]:
    settings = (word for setting in SETTINGS for word in ("--set", setting))
    return ["train", recipe, "--data", DATA, *settings, *more]


def test_a_dry_run_says_what_the_run_takes_and_writes_nothing(tmp_path: Path) -> None:
    done = run_gmn(*command("small-gmn", "--dry-run", "--json", "--out", str(tmp_path / "run")))
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    answer = json.loads(done.stdout)
    assert answer["steps"] == answer["epochs"] * answer["steps_per_epoch"] > 0
    assert set(answer["domains"]) == {"synthetic/domain0", "synthetic/domain1"}
    assert sum(domain["identities"] for domain in answer["domains"].values()) < 20
    assert answer["embedder"]["parameters"] == pytest.approx(2.2e6, rel=0.05)
    assert answer["seconds"] == pytest.approx(answer["steps"] * answer["seconds_per_step"])
    assert answer["seconds"] > 0


def test_a_dry_run_and_a_run_report_what_an_epoch_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["path,identity,camera"]
    # Person 0 has 39 crops, 1 has 11, and ten others have one each.
    for number in range(60):
        person, camera = (number, "b") if number < 12 else (0 if number < 50 else 1, "a")
        Image.new("RGB", (32, 64), (number, 2 * number, 50)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{person},{camera}")
    (tmp_path / "shop.csv").write_text("\n".join(rows), encoding="utf-8")
    words = command("small-gmn", "--dry-run", "--json")
    words[words.index(DATA)] = f"manifest:{tmp_path / 'shop.csv'}"
    words += ["--set", "sampling.identities=2", "--set", "held_out.fraction=0"]
    assert gmn.run(words) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["crops_in_epoch"], answer["single_crop_identities"]) == (47, 10)
    assert gmn.run([word for word in words if word != "--json"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "47 of 60 crops" in shown
    assert "10 people with a single crop are left out" in shown


def test_a_dry_run_shows_the_cost_beside_the_papers() -> None:
    size = ("--set", "embedder.multiscale.channels=64", "--set", "sampling.images=2")
    done = run_gmn(*command("msfl-r50", "--dry-run", *size))
    assert "reported: " in done.stdout
    assert "27 M" in done.stdout
    assert "the run" in done.stdout


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "--out is missing: name the folder"),
        (("--out", "run", "--json"), "--json: answers --dry-run only"),
        (("--out", "run", "--protocol", "P2"), "--protocol is withdrawn: gmn benchmark gmn/lodo"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_remedy(
    more: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gmn.run(command("small-gmn", *more)) == 2
    assert message in capsys.readouterr().err


def test_a_terminated_command_says_how_to_continue(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with (tmp_path / "errors").open("w") as errors:
        process = Forked(GMN, *command("small-gmn", "--out", str(out)), stderr=errors.fileno())
    while not (out / "log.jsonl").exists() or not (out / "log.jsonl").stat().st_size:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    said = (tmp_path / "errors").read_text()
    assert "stopped by SIGTERM after step" in said
    assert "continue with --resume" in said
    assert (out / "checkpoint.pt").exists()


@pytest.mark.slow
def test_the_progress_bar_shows_its_total_from_the_start(
    tmp_path: Path, tiny_artefact: Path
) -> None:
    master, terminal = pty.openpty()
    settings = ("--set", "optimisation.epochs=2", "--out", str(tmp_path / "run"))
    settings += ("--set", f"initial_weights={tiny_artefact}")
    process = Forked(GMN, *command("small-gmn", *settings), stderr=terminal)
    os.close(terminal)
    shown = b""
    # Linux reports the closed terminal of a process that has ended as an error.
    with contextlib.suppress(OSError):
        while chunk := os.read(master, 4096):
            shown += chunk
    os.close(master)
    assert process.wait(60) == 0
    counts = re.findall(r"(\d+)/(\d+|\?)", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()))
    first, total = counts[0]
    assert first == "0"
    assert total != "?"
    assert (total, total) in counts
