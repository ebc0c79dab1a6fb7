"""Imports of the process from which tests fork others, and the certificates, read once for all."""

import functools
import importlib

import httpcore2

from gmn_client.commands import terminal

MODULES = (
    "demo.data_sets",
    "gmn",
    "gmn_client",
    "gmn_client.commands.bulk",
    "pytest",
    "rich.markdown",
    "service.commands.keys",
    "service.commands.processes",
    "service.commands.serve",
    "service.app",
    "service.required_artefacts",
    "service.runtime",
    "tests.failpoints",
    "tests.forked",
    "training.commands.train",
    "training.train",
    # Building a network imports it, with a thousand modules.
    "torchvision",
    "typer.rich_utils",
    "uvicorn.lifespan.on",
    "uvicorn.loops.asyncio",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
)

for name in MODULES:
    importlib.import_module(name)

# A busy machine would print lines between those that a test of a command expects.
terminal.LINE_SECONDS = 3600.0

# Each service makes such a context for its webhooks, and reads a hundred certificates for it.
httpcore2.default_ssl_context = functools.cache(httpcore2.default_ssl_context)
httpcore2.default_ssl_context(_trust_env=True)
