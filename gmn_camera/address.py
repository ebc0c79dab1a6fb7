"""Addresses of streams: which there are, and how they are shown."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

from gmn_client.errors import InvalidInput

STREAM = re.compile(r"(rtsps?|rtmps?|https?|tcp|udp|rtp|srt)://", re.IGNORECASE)
# A file is never named like this: other programs' addresses, and those with a slash too few.
ADDRESS = re.compile(r"\s*[a-z][\w+.-]+:[/\\]|.*://", re.IGNORECASE | re.DOTALL)
SECRET = re.compile(r"(pass|pwd|psw|user|usr|login|token|secret|auth|key)\w*=", re.IGNORECASE)
HIDDEN = "…"
# The protocol, after that of another program, as in `ffmpeg:rtsp://`.
PROTOCOL = re.compile(r"([a-z][a-z\d+.-]*:){1,2}//", re.IGNORECASE)
# Some cameras want user and password in the path. Of the path, only plain parts are shown.
PLAIN = r"[^\s/\\:?#&;=@]*"
PLACE = re.compile(rf"(\[[\w:.%]*\]|{PLAIN})(:\d+)?(?=[/?#]|$)(/{PLAIN}(?=[/?#]|$))*")
# A password may have spaces: everything from the protocol to the last @ may belong to it.
WITH_USER = re.compile(
    r"(?<![a-z\d+.-])[a-z][a-z\d+.-]*:[/\\]+\S[^\n]*@[^\s'\"<>()]*", re.IGNORECASE
)
WORD = re.compile(r"[^\s'\"<>()]+")
PUNCTUATION = ":;,."


def redact(address: str) -> str:
    """Return an address without user, password and parameters; the name of a file as it is.

    What is no proper address is hidden as far as it may hold a password.
    """
    if not _may_hold_password(address):
        return address
    address = address.strip()
    protocol = PROTOCOL.match(address)
    shown = protocol[0] if protocol is not None else ""
    user, at, place = address[len(shown) :].rpartition("@")
    # The last @ may be a part of a parameter.
    is_unclear = any(letter in user for letter in "?#&;=") or "@" in _plain(place)
    plain = PLACE.match(place)
    if is_unclear or plain is None:
        return f"{shown}{HIDDEN}"
    shown += f"{HIDDEN}{at}" if at else ""
    shown += plain[0]
    rest = place[plain.end() :]
    return f"{shown}{rest[0]}{HIDDEN}" if rest else shown


def redact_text(text: str) -> str:
    """Return a message, such as that of an error, in which all addresses are redacted."""
    return WORD.sub(_redact_found, WITH_USER.sub(_redact_found, text))


def _redact_found(found: re.Match[str]) -> str:
    address = found[0].rstrip(PUNCTUATION)
    return redact(address) + found[0][len(address) :]


def _may_hold_password(text: str) -> bool:
    plain = _plain(text)
    return "@" in plain or ADDRESS.match(plain) is not None or SECRET.search(plain) is not None


def _plain(text: str) -> str:
    """Return a text without what an address may be encoded with, once or twice."""
    return unicodedata.normalize("NFKC", unquote(unquote(text)))


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
            "rtsp://, http://, tcp://, udp://, rtp://, rtmp:// or srt://"
        )
    return False
