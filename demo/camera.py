"""`gmn demo-camera`: two cameras see a person, of whom the second one raises an alert."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option, echo

from gmn_client.commands.common import output
from gmn_client.errors import InvalidInput
from model.wording import counted

if TYPE_CHECKING:
    from gmn_client import Client
    from gmn_client.methods import WatchOptions
    from gmn_client.models import Alert

DRAWN_PEOPLE = "rendered:4,identities=3,cameras=2,crops=1"
WALK_SECONDS = 4
COLLECTED = "sightings"
WATCHED = "wanted"
FIRST_CAMERA = "hall"
SECOND_CAMERA = "gate"
PERSON = "Person 1"


def demo_camera(
    clip: Annotated[
        Path | None, Argument(help="A video in which people walk past; drawn unless given.")
    ] = None,
    artefact: Annotated[str, Option(help="A shipped name such as bundled, or a file.")] = "small",
) -> None:
    """Shows a camera at work: from a clip to an alert.

    The camera hall watches a clip and collects its people. The one with the most crops is enrolled
    into a list, which is armed. The camera gate then sees this person: in a second drawn clip, or
    in yours once more. On a terminal the service stays up until Ctrl-C. Lines on standard error
    tell the steps.

    Example: gmn demo-camera phone.mp4
    """
    from demo.service import own_service, runtime_of_each_run
    from gmn_camera.command import PACKAGES, require_packages

    require_packages("camera", PACKAGES)
    # A plain SIGTERM would end this process and leave its service behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with contextlib.ExitStack() as held:
        if clip is not None:
            first = second = clip
        else:
            say("Drawing the clips of two cameras.")
            folder = held.enter_context(TemporaryDirectory(prefix="gmn-clips-"))
            first, second = draw_clips(Path(folder))
        say(f"Starting a service with the artefact {artefact}.")
        client = held.enter_context(own_service(artefact, runtime_of_each_run()))
        say(f"It serves on {client.url}.")
        alerts = play(client, first, second)
        if sys.stdin.isatty() and sys.stdout.isatty():
            output().print(
                f"The service runs until Ctrl-C: {client.url}\nIts page shows the alert under "
                f"Watch, and the people of the camera {FIRST_CAMERA} in the gallery {COLLECTED}.",
                soft_wrap=True,
            )
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
    if not alerts:
        raise InvalidInput(
            "no alert was raised: the person was not seen well enough; gmn camera try CLIP says "
            "what to change"
        )


def say(line: str) -> None:
    echo(line, err=True)


def draw_clips(folder: Path) -> tuple[Path, Path]:
    """Draw the clips of two cameras, with three people of whom one is in both."""
    from demo.data_sets import read_spec
    from demo.drawn_videos import read_person, walk, write_video

    crops = read_spec(DRAWN_PEOPLE).crops
    names = sorted({str(crop.identity) for crop in crops})
    cameras = sorted({str(crop.camera) for crop in crops})
    people = {(crop.identity, crop.camera): read_person(crop.read()) for crop in crops}
    files = []
    for camera, passing in zip(cameras, (names[:2], [names[2], names[0]]), strict=True):
        frames = walk([people[name, camera] for name in passing], WALK_SECONDS)
        files.append(write_video(folder / f"{camera}.mp4", frames))
    return files[0], files[1]


def play(client: Client, first: Path, second: Path) -> list[Alert]:
    """Collect the people of a clip, watch for one of them in another, and return the alerts.

    Raises:
        InvalidInput: a clip cannot be watched, or shows nobody.
    """
    console = output()
    client.create_gallery(COLLECTED, retention_days=1)
    watch_clip(client, first, FIRST_CAMERA, "--enroll", COLLECTED)
    tracks = Counter(crop.track for crop in client.crops(gallery=COLLECTED))
    if not tracks:
        raise InvalidInput(f"{first}: shows nobody; gmn camera try {first} says what to change")
    console.print(
        f"The camera {FIRST_CAMERA} saw {counted(len(tracks), 'person', 'people')} and collected "
        f"{counted(tracks.total(), 'crop')}.",
        soft_wrap=True,
    )
    ((track, _),) = tracks.most_common(1)
    enroll_person(client, str(track))
    options: WatchOptions = {
        "budget": 3,
        "tracks_per_day": 3000,
        "expires_at": datetime.now(UTC) + timedelta(days=1),
        "reason": "demonstration",
        "retention_days": 1,
    }
    proposal = client.propose_watch(WATCHED, **options)
    client.arm_watch(proposal.confirm, WATCHED, **options)
    console.print(f"{PERSON} is on the list {WATCHED}, which is armed.", soft_wrap=True)
    watch_clip(client, second, SECOND_CAMERA)
    alerts = list(client.alerts())
    for alert in alerts:
        console.print(
            f"Alert: the camera {alert.camera} sees {alert.identity}, probability "
            f"{alert.probability:.2f}.",
            style="bold",
            soft_wrap=True,
        )
    return alerts


def enroll_person(client: Client, track: str) -> None:
    """Enroll the crops of a track into the list, as a person with a name."""
    from gmn_client import Image

    client.create_gallery(WATCHED)
    crops = list(client.crops(gallery=COLLECTED, track=track))
    client.enroll(
        [
            Image(client.image(crop.crop_id, COLLECTED), identity=PERSON, camera=crop.camera)
            for crop in crops
        ],
        gallery=WATCHED,
    )


def watch_clip(client: Client, clip: Path, camera: str, *options: str) -> None:
    """Run `gmn camera run` for a clip.

    Raises:
        InvalidInput: it failed; the message has the last line of its log.
    """
    from demo.service import PROGRAM

    say(f"The camera {camera} watches {clip.name}.")
    command = [sys.executable, str(PROGRAM), "camera", "run", str(clip), "--camera", camera]
    ran = subprocess.run(
        [*command, "--url", client.url, *options],
        env={name: value for name, value in os.environ.items() if name != "GMN_API_KEY"},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ran.returncode != 0:
        _, _, last_line = ran.stderr.strip().rpartition("\n")
        raise InvalidInput(last_line.removeprefix("gmn: "))
