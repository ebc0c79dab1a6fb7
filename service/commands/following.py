"""A job of the service on the terminal: a progress bar until it has ended."""

from __future__ import annotations

import typer
from rich.progress import Progress

from service.client import Client, Job


def follow(client: Client, job: Job, title: str, progress: Progress) -> Job:
    """Shows how far a job is, until it has ended; on Ctrl-C it goes on in the service."""
    task = progress.add_task(title, total=None)
    try:
        for latest in client.watch_job(job.job_id):
            done = latest.progress
            progress.update(task, total=done.total or None, completed=done.done)
    except KeyboardInterrupt:
        typer.echo(f"Job {job.job_id} goes on in the service.", err=True)
        raise
    return latest
