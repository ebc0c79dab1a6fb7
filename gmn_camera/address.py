"""Addresses of streams: which there are, and how they are shown."""

from __future__ import annotations

import re

from gmn_client.errors import InvalidInput

STREAM = re.compile(r"(rtsps?|rtmps?|https?|tcp|udp|rtp|srt)://", re.IGNORECASE)
ADDRESS = re.compile(r"\w+://")


def redact(address: str) -> str:
    """Return an address without user, password and parameters; a path as it is."""
    if not ADDRESS.match(address):
        return address
    without_user = re.sub(r"//[^/]*@", "//…@", address)
    return re.sub(r"\?.*", "?…", without_user)


def is_stream(source: str) -> bool:
    """Return True for the address of a stream and False for a file.

    Raises:
        InvalidInput: an address of another kind.
    """
    if STREAM.match(source):
        return True
    if ADDRESS.match(source):
        raise InvalidInput(
            f"{redact(source)}: cannot be read; name a video file, or an address that begins with "
            "rtsp, http, tcp, udp, rtp, rtmp or srt"
        )
    return False
