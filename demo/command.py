"""`gmn demo`: draws people, serves, enrolls, queries, and shows the results."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gmn_client import Client
from service.commands.common import JsonOption, local_service, output

if TYPE_CHECKING:
    from demo.findings import Findings

SHOWN_KNOWN, SHOWN_STRANGERS = 9, 3
PICTURED_KNOWN, PICTURED_STRANGERS = 3, 1
CAMERAS = 4


def demo(
    artefact: Annotated[
        str, typer.Option("--artefact", help="A shipped name such as bundled, or a file.")
    ] = "bundled",
    out: Annotated[Path, typer.Option("--out", help="Folder for the page and the picture.")] = Path(
        "demo-output"
    ),
    people: Annotated[int, typer.Option("--people", min=1, help="How many are enrolled.")] = 60,
    strangers: Annotated[
        int, typer.Option("--strangers", min=0, help="How many are asked for but not enrolled.")
    ] = 40,
    seed: Annotated[
        int,
        typer.Option(
            "--seed", min=0, help="Of the drawing, the order of the queries, and who is shown."
        ),
    ] = 20_260,
    as_json: JsonOption = False,
) -> None:
    """Draws people, serves, enrolls and queries them, and shows the rankings.

    Needs no network and no data: all people are drawn. Known people and strangers are asked for in
    a mixed order; both errors are counted, and the people shown are chosen at random by the seed.
    On a terminal the service stays up until Ctrl-C; otherwise it stops at the end. It is gone in
    either case when the command is.

    Example: gmn demo --out demo-output
    """
    from demo.people import draw_cast
    from demo.report import figures_of, show_findings
    from demo.story import play

    # A plain SIGTERM would end this process and leave its service behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="gmn-demo-") as scratch:
        command = serve_command(artefact, Path(scratch) / "data")
        with local_service(command, Path(scratch) / "service.log") as url:
            with Client(url) as client:
                findings = play(client, draw_cast(seed, people, strangers, CAMERAS), seed)
            page = _write(findings, out)
            console = output()
            if as_json:
                console.print_json(data=figures_of(findings) | {"page": str(page)})
                return
            show_findings(console, findings, SHOWN_KNOWN, SHOWN_STRANGERS)
            console.print(f"page: {page}", soft_wrap=True)
            if sys.stdin.isatty() and sys.stdout.isatty():
                console.print(f"the service stays up until Ctrl-C: {url}/docs", soft_wrap=True)
                with contextlib.suppress(KeyboardInterrupt):
                    threading.Event().wait()


def _write(findings: Findings, out: Path) -> Path:
    """Writes page and picture; returns the page."""
    from demo.page import render_page
    from demo.picture import draw_picture

    out.mkdir(parents=True, exist_ok=True)
    page = (out / "index.html").resolve()
    page.write_text(render_page(findings, SHOWN_KNOWN, SHOWN_STRANGERS), encoding="utf-8")
    draw_picture(findings.sample(PICTURED_KNOWN, PICTURED_STRANGERS)).save(out / "ranking.png")
    return page


def serve_command(artefact: str, data_dir: Path) -> list[str]:
    """The command line of a service on a free port, with this interpreter."""
    program = Path(__file__).resolve().parents[1] / "gmn.py"
    options = ["--artefact", artefact, "--data-dir", str(data_dir), "--port", "0"]
    return [sys.executable, str(program), "serve", *options]
