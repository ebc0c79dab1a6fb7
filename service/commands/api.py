"""`gmn api METHOD`: every method of `gmn_client.Client`, with options from its signature."""

from __future__ import annotations

import inspect

from gmn_client import Client
from gmn_client.calls import Method
from service.commands.browse import method_command
from service.commands.common import command_group

api = command_group(
    """Calls a method of the Python client and prints its answer.

    Methods and their options are those of `gmn_client.Client`. Images are named by their files,
    objects are JSON, and an empty text stands for unknown. Nothing asks before it deletes.

    Example: gmn api kept_searches --gallery entrance

    Example: gmn api take_snapshot --gallery entrance

    Example: gmn api pairs front.jpg side.jpg --json
    """
)

for name, attribute in inspect.getmembers_static(Client):
    if isinstance(attribute, Method) and not name.startswith("_"):
        api.command(name)(method_command("", name))
