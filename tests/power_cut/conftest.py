"""The served process that is recorded."""

from tests.service.conftest import start

__all__ = ["start"]
