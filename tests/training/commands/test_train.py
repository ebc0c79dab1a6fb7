"""`gmn train` without training: dry runs, errors in own data, and a run that is stopped."""

import json
import signal
import time
from urllib.error import URLError

import pytest
import torchvision
from PIL import Image

from tests.forked import GMN, Forked
from tests.training.runs import run_here, set_options
from training.datasets.protocols import is_held_out

DATA = "synthetic:5,identities=10,domains=2,cameras=2,crops=2"
SETTINGS = (
    "initial_weights=none",
    "preprocessing.height=64",
    "preprocessing.width=32",
    "sampling.identities=4",
    "held_out.fraction=0.3",
)


def command(recipe, *more):
    return ["train", recipe, "--data", DATA, *set_options(*SETTINGS), *more]


def test_a_dry_run_says_what_the_run_takes_and_writes_nothing(tmp_path):
    ran = run_here(*command("small-gmn", "--dry-run", "--json", "--out", tmp_path / "run"))
    assert ran.status == 0, ran.err
    assert list(tmp_path.iterdir()) == []
    answer = json.loads(ran.out)
    assert answer["steps"] == answer["epochs"] * answer["steps_per_epoch"] > 0
    assert set(answer["domains"]) == {"synthetic/domain0", "synthetic/domain1"}
    assert sum(domain["identities"] for domain in answer["domains"].values()) < 20
    assert answer["embedder"]["parameters"] == pytest.approx(2.2e6, rel=0.05)
    assert answer["seconds"] == pytest.approx(answer["steps"] * answer["seconds_per_step"])
    assert answer["seconds"] > 0


def test_a_dry_run_reports_what_an_epoch_leaves_out(tmp_path):
    rows = ["path,identity,camera"]
    # Person 0 has 39 crops, 1 has 11, and ten others have one each.
    for number in range(60):
        person, camera = (number, "b") if number < 12 else (0 if number < 50 else 1, "a")
        Image.new("RGB", (32, 64), (number, 2 * number, 50)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{person},{camera}")
    (tmp_path / "shop.csv").write_text("\n".join(rows), encoding="utf-8")
    words = command("small-gmn", "--dry-run")
    words[words.index(DATA)] = f"manifest:{tmp_path / 'shop.csv'}"
    words += set_options("sampling.identities=2", "held_out.fraction=0")
    answer = json.loads(run_here(*words, "--json").out)
    assert (answer["crops_in_epoch"], answer["single_crop_identities"]) == (47, 10)
    shown = " ".join(run_here(*words).out.split())
    assert "47 of 60 crops" in shown
    assert "10 people with a single crop left out" in shown


def test_a_dry_run_shows_the_cost_beside_the_papers():
    size = set_options("embedder.multiscale.channels=64", "sampling.images=2")
    shown = run_here(*command("msfl-r50", "--dry-run", *size)).out
    assert "reported: " in shown
    assert "27 M" in shown
    assert "the run" in shown


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "--out is missing: name a new folder"),
        (("--out", "run", "--json"), "--json: needs --dry-run"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_remedy(more, message):
    ran = run_here(*command("small-gmn", *more))
    assert ran.status == 2
    assert message in ran.err


@pytest.mark.parametrize("recipe", ["small-gmn", "small-msfl"])
def test_weights_that_cannot_be_downloaded_end_a_run_before_its_data_are_read(recipe, monkeypatch):
    def fail(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", fail)
    ran = run_here("train", recipe, "--data", "cuhk01:/nowhere", "--dry-run")
    assert ran.status == 2
    assert "could not be downloaded" in ran.err
    assert "train the recipe adapt with initial_weights=small-start" in ran.err


def test_a_terminated_command_says_how_to_continue(tmp_path):
    out = tmp_path / "run"
    words = [str(word) for word in command("small-gmn", "--out", out)]
    with (tmp_path / "errors").open("w") as errors:
        process = Forked(GMN, *words, stderr=errors.fileno())
    while not (out / "log.jsonl").exists() or not (out / "log.jsonl").stat().st_size:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    said = (tmp_path / "errors").read_text()
    assert "stopped by SIGTERM after step" in said
    assert "continue with --resume" in said
    assert (out / "checkpoint.pt").exists()


def draw(place, shade):
    place.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (32, 64), (shade % 250, 2 * shade % 250, 60))
    image.putpixel((shade % 32, 5), (255, 255, 255))
    image.save(place)


def people(folder, count, cameras="ab", crops=2):
    """Draw crops of people and a manifest of them, and return its spec."""
    rows = ["path,identity,camera"]
    for person in range(count):
        for camera in cameras:
            for crop in range(crops):
                draw(folder / f"{person}-{camera}-{crop}.png", len(rows))
                rows.append(f"{person}-{camera}-{crop}.png,person{person},{camera}")
    (folder / "manifest.csv").write_text("\n".join(rows), encoding="utf-8")
    return f"manifest:{folder}"


@pytest.fixture
def refusal(tmp_path):
    """Returns the error of a training that is refused before its first step."""

    def train(spec, *settings):
        words = ["train", "small-gmn", "--data", spec, "--out", tmp_path / "run"]
        words += set_options("initial_weights=none", "sampling.identities=4")
        words += set_options("held_out.fraction=0.3", *settings)
        ran = run_here(*words)
        assert ran.status == 2
        assert not (tmp_path / "run" / "log.jsonl").exists()
        return ran.err

    return train


def test_crops_that_cannot_be_read_are_counted_and_the_first_few_are_named(tmp_path, refusal):
    spec = people(tmp_path, 12)
    cut = tmp_path / "3-a-0.png"
    cut.write_bytes(cut.read_bytes()[:60])
    draw(tmp_path / "moved.gif", 3)
    (tmp_path / "moved.gif").replace(tmp_path / "5-b-1.png")
    error = refusal(spec)
    assert "2 of 48 crops cannot be read" in error
    assert "3-a-0.png: the image" in error
    assert "5-b-1.png: the bytes are not a JPEG, PNG, WebP or BMP image; convert the file" in error
    for crop in tmp_path.glob("*.png"):
        crop.write_bytes(b"no image")
    error = refusal(spec)
    assert "48 of 48 crops cannot be read" in error
    assert "and 43 more" in error


def test_crops_of_one_camera_are_refused(tmp_path, refusal):
    error = refusal(people(tmp_path, 30, cameras="a"))
    assert "all crops are of one camera; a search across cameras needs two or more" in error
    assert "; add crops of other cameras, or set held_out.fraction=0 and calibrate" in error
    assert "raise held_out.fraction" not in error


def test_people_held_out_under_one_camera_are_said_to_be_with_the_settings_to_change(
    tmp_path, refusal
):
    rows = ["path,identity,camera"]
    for person in range(12):
        camera = "a" if is_held_out("shop", f"person{person}", 0.3, 0) else "b"
        draw(tmp_path / f"{person}.png", person)
        rows.append(f"{person}.png,person{person},{camera}")
    (tmp_path / "shop.csv").write_text("\n".join(rows))
    error = refusal(str(tmp_path / "shop.csv"))
    assert "all crops of the people held out" in error
    assert "of one camera; a search across cameras needs two or more; give more people" in error
    assert "raise held_out.fraction, choose another held_out.seed" in error
    assert "the artefact was trained on" not in error


def test_that_nobody_is_held_out_names_the_settings_of_a_training(tmp_path, refusal):
    error = refusal(people(tmp_path, 2), "held_out.fraction=1e-9")
    assert "none of its people is held out" in error
    assert "raise held_out.fraction, choose another held_out.seed" in error
    assert "the artefact was trained on" not in error


def test_too_few_people_for_a_batch_are_refused_with_the_setting_to_lower(tmp_path, refusal):
    error = refusal(people(tmp_path, 30, cameras="a", crops=1), "held_out.fraction=0")
    assert "only 0 of 30 identities have two crops or more, a batch needs 4" in error
    for person in ("ann", "bob", "eve"):
        for crop in range(4):
            draw(tmp_path / "staff" / person / f"{crop}.png", crop)
    error = refusal(f"folder:{tmp_path / 'staff'}", "held_out.fraction=0")
    assert "only 3 of 3 identities have two crops or more, a batch needs 4; give more" in error
    assert "lower sampling.identities" in error
