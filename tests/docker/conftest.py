"""The deployment's files, as they are read by what runs them."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
VARIABLE = re.compile(r"\$\{([A-Z_]+):?-([^}]*)\}")


class ComposeLoader(yaml.SafeLoader):
    """YAML with Compose's own tags."""


ComposeLoader.add_constructor("!reset", lambda _loader, _node: "reset")


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def read_compose(name):
    """Return a compose file in which no variable is set."""
    text = VARIABLE.sub(lambda found: found[2], text_of(name))
    return yaml.load(text, Loader=ComposeLoader)


@pytest.fixture(scope="session")
def compose():
    return read_compose("docker-compose.yml")


@pytest.fixture(scope="session")
def dockerfile():
    return text_of("docker/Dockerfile").replace("\\\n", " ")


@pytest.fixture(scope="session")
def guide():
    return text_of("docs/operations.md")


@pytest.fixture(scope="session")
def monitoring():
    return text_of("docs/monitoring.md")
