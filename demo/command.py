"""`gmn demo`: draws people, serves, enrolls, queries, and writes a page of the results."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from typer import Option, echo

from gmn_client.commands.common import output
from gmn_client.commands.parameters import JsonOption

CAMERAS = 4
SEED_HELP = "Of the drawing, the order of the queries, and who is shown."


def demo(
    artefact: Annotated[str, Option(help="A shipped name such as bundled, or a file.")] = "bundled",
    out: Annotated[Path, Option(help="Folder for the page.")] = Path("demo-output"),
    people: Annotated[int, Option(min=1, help="How many are enrolled.")] = 60,
    strangers: Annotated[int, Option(min=0, help="How many are asked for but not enrolled.")] = 40,
    seed: Annotated[int, Option(min=0, help=SEED_HELP)] = 20_260,
    as_json: JsonOption = False,
) -> None:
    """Draws people, serves, enrolls and queries them, and writes a page with rankings.

    Needs no network and no data: all people are drawn. Known people and strangers are asked for in
    a mixed order; both errors are counted, and the people shown are chosen at random by the seed.
    On a terminal the service stays up until Ctrl-C; otherwise it stops at the end. It is gone in
    either case when the command is. Lines on standard error tell the steps. A busy machine only
    makes them slower: the demonstration waits for its service while that works.

    Example: gmn demo --out demo-output
    """

    def say(line: str) -> None:
        echo(line, err=True)

    from model.artefact import read_description, resolve_artefact

    # A wrong name is refused before anything else is done.
    read_description(resolve_artefact(artefact))
    say(f"Drawing {people + strangers} people.")
    # These imports take seconds, which the help does not need.
    from demo.page import render_page, show_findings
    from demo.service import own_service, runtime_of_each_run
    from demo.story import draw_cast, play

    # A plain SIGTERM would end this process and leave its service behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    cast = draw_cast("rendered", seed, people, strangers, CAMERAS)
    say(f"Starting a service with the artefact {artefact}.")
    with own_service(artefact, runtime_of_each_run()) as client:
        say(f"It serves on {client.url}.")
        findings = play(client, cast, seed, say)
        out.mkdir(parents=True, exist_ok=True)
        page = (out / "index.html").resolve()
        page.write_text(render_page(findings), encoding="utf-8")
        console = output()
        if as_json:
            console.print_json(data=findings.figures | {"page": str(page)})
            return
        show_findings(console, findings)
        console.print(f"\nThe rankings are on the page {page}", soft_wrap=True)
        if sys.stdin.isatty() and sys.stdout.isatty():
            console.print(
                f"The service runs until Ctrl-C: {client.url}\nIts page has all these people under "
                "People, where a picture searches by More like this; a photo of your own can be "
                "dropped on Search.",
                soft_wrap=True,
            )
            with suppress(KeyboardInterrupt):
                signal.pause()
