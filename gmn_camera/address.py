"""Recognizes the addresses of streams, and hides their passwords in messages."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

from gmn_client.errors import InvalidInput

STREAM = re.compile(r"(rtsps?|rtmps?|https?|tcp|udp|rtp|srt)://", re.IGNORECASE)
# Addresses of other programs, and those with a slash too few. No file is named like this.
ADDRESS = re.compile(r"\s*[a-z][\w+.-]+:[/\\]|.*://", re.IGNORECASE | re.DOTALL)
SECRET = re.compile(r"(pass|pwd|psw|user|usr|login|token|secret|auth|key)\w*=", re.IGNORECASE)
HIDDEN = "…"
# The protocol, perhaps after the name of another program, as in `ffmpeg:rtsp://`.
PROTOCOL = re.compile(r"([a-z][a-z\d+.-]*:){1,2}//", re.IGNORECASE)
# Some cameras want user and password in the path, so only its plain parts are shown.
PLAIN = r"[^\s/\\:?#&;=@]*"
HOST_AND_PATH = re.compile(rf"(\[[\w:.%]*\]|{PLAIN})(:\d+)?(?=[/?#]|$)(/{PLAIN}(?=[/?#]|$))*")
# A password may have spaces: everything from the protocol to the last @ may belong to it.
WITH_USER = re.compile(
    r"(?<![a-z\d+.-])[a-z][a-z\d+.-]*:[/\\]+\S[^\n]*@[^\s'\"<>()]*", re.IGNORECASE
)
WORD = re.compile(r"[^\s'\"<>()]+")
PUNCTUATION = ":;,."


def redact(address: str) -> str:
    """Hide user, password and parameters of an address; return the name of a file unchanged.

    A malformed address is hidden as far as it may contain a password.
    """
    if not _may_hold_password(address):
        return address
    address = address.strip()
    protocol = PROTOCOL.match(address)
    shown = protocol[0] if protocol is not None else ""
    user, at, location = address[len(shown) :].rpartition("@")
    # The last @ may be a part of a parameter.
    is_unclear = any(letter in user for letter in "?#&;=") or "@" in _plain(location)
    plain = HOST_AND_PATH.match(location)
    if is_unclear or plain is None:
        return f"{shown}{HIDDEN}"
    shown += f"{HIDDEN}{at}" if at else ""
    shown += plain[0]
    rest = location[plain.end() :]
    return f"{shown}{rest[0]}{HIDDEN}" if rest else shown


def redact_text(text: str) -> str:
    """Redact all addresses in a text, such as the message of an error."""
    return WORD.sub(_redact_found, WITH_USER.sub(_redact_found, text))


def _redact_found(found: re.Match[str]) -> str:
    address = found[0].rstrip(PUNCTUATION)
    return redact(address) + found[0][len(address) :]


def _may_hold_password(text: str) -> bool:
    plain = _plain(text)
    return "@" in plain or ADDRESS.match(plain) is not None or SECRET.search(plain) is not None


def _plain(text: str) -> str:
    """Undo the URL encoding, once or twice, and normalize the letters of an address."""
    return unicodedata.normalize("NFKC", unquote(unquote(text)))


def is_stream(source: str) -> bool:
    """Return True for the address of a stream and False for a file.

    Raises:
        InvalidInput: it is an address with another protocol.
    """
    if STREAM.match(source):
        return True
    if ADDRESS.match(source):
        raise InvalidInput(
            f"{redact(source)}: cannot be read; name a video file, or an address that begins with "
            "rtsp://, http://, tcp://, udp://, rtp://, rtmp:// or srt://"
        )
    return False
