"""One attempt to send a message to a webhook, signed by the rules of standardwebhooks.com."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import math
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import h11
import httpx

from service.errors import InvalidField
from service.record.webhooks import MOST_WEBHOOKS, StoredWebhook
from service.watch.addresses import THIS_MACHINE, Receiver, resolve

PREFIX = "whsec_"
SECRET_BYTES = 32
# For this time after a rotation, the former secret signs beside the new one.
BOTH_SECRETS_FOR = timedelta(days=1)
# Time for one attempt, from the look-up of the name to the head of the answer.
ATTEMPT_SECONDS = 10.0
CONNECT_SECONDS = 3.0
# Limit on the head of an answer and any 1xx answers before it.
MOST_HEAD_BYTES = 16_384
READ_BYTES = 4096
# Concurrent attempts of one webhook: a slow one delays no other.
AT_ONCE = 2
# Upper bound on the pause that a receiver may ask for.
LONGEST_PAUSE_SECONDS = 43_200.0


@dataclass(frozen=True)
class Outcome:
    """The outcome of one attempt.

    Attributes:
        status: status of the answer; None without an answer.
        error: reason of the failure; None if the message was delivered.
        sent: True if the message may have arrived.
        retry_after_s: pause that the receiver asks for.
    """

    status: int | None = None
    error: str | None = None
    sent: bool = False
    retry_after_s: float = 0.0

    @property
    def delivered(self) -> bool:
        return self.error is None


def new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signatures(webhook: StoredWebhook, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the header `webhook-signature`: a signature by each secret that is valid now."""
    valid = [webhook.secret]
    if webhook.former_secret and webhook.former_until and webhook.former_until > datetime.now(UTC):
        valid.append(webhook.former_secret)
    signed = f"{message_id}.{timestamp}.".encode() + body
    keys = [base64.b64decode(secret.removeprefix(PREFIX)) for secret in valid]
    digests = [hmac.digest(key, signed, hashlib.sha256) for key in keys]
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


class Sender:
    """Sends messages to webhooks; looks up and checks the address of each message."""

    def __init__(self, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._certificates = httpx.create_ssl_context()
        # One thread per attempt: a hanging name server delays no other webhook.
        self._threads = ThreadPoolExecutor(MOST_WEBHOOKS * AT_ONCE, "webhook names")

    async def require_usable(self, url: str, may_name_this_machine: bool) -> None:
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                receiver = await resolve(url, self._allow_private, self._threads)
        except TimeoutError as error:
            raise InvalidField("url: its name could not be looked up in time") from error
        if not (may_name_this_machine or self._allow_private) and receiver.url.host in THIS_MACHINE:
            raise InvalidField(
                "url: is one of this machine, and the key is for one gallery; let a key for all "
                "galleries make the webhook"
            )

    async def send(self, webhook: StoredWebhook, message_id: str, body: bytes) -> Outcome:
        timestamp = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "gmn-webhooks",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signatures(webhook, message_id, timestamp, body),
        }
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                receiver = await resolve(webhook.url, self._allow_private, self._threads)
                return await self._post(receiver, headers, body)
        except InvalidField as error:
            return Outcome(error=error.detail)
        except TimeoutError:
            return Outcome(error=f"no answer came within {ATTEMPT_SECONDS:g} s", sent=True)

    async def _post(self, receiver: Receiver, headers: dict[str, str], body: bytes) -> Outcome:
        url = receiver.url
        tls = self._certificates if url.scheme == "https" else None
        # The certificate is checked for the name, not for the address.
        name = url.raw_host.decode() if tls else None
        outcome = Outcome(error="its name stands for no address")
        for address in receiver.addresses:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    reader, writer = await asyncio.open_connection(
                        str(address), receiver.port, ssl=tls, server_hostname=name
                    )
            except (OSError, TimeoutError) as error:
                why = f"it cannot be connected to: {error or type(error).__name__}"
                outcome = Outcome(error=why[:200])
                continue
            try:
                return await _exchange(reader, writer, url, headers, body)
            except (OSError, h11.ProtocolError) as error:
                why = f"{type(error).__name__}: {error}"
                return Outcome(error=why[:200], sent=True)
            finally:
                writer.transport.abort()
        return outcome

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


async def _exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    url: httpx.URL,
    headers: dict[str, str],
    body: bytes,
) -> Outcome:
    connection = h11.Connection(h11.CLIENT)
    all_headers = {
        "Host": url.netloc.decode(),
        "Connection": "close",
        "Content-Length": str(len(body)),
        **headers,
    }
    request = h11.Request(
        method="POST",
        target=url.raw_path,
        headers=list(all_headers.items()),
    )
    for sent in (request, h11.Data(body), h11.EndOfMessage()):
        writer.write(connection.send(sent) or b"")
    await writer.drain()
    received = 0
    while received <= MOST_HEAD_BYTES:
        answer = connection.next_event()
        if isinstance(answer, h11.Response):
            return _outcome(answer)
        if answer is h11.NEED_DATA:
            part = await reader.read(READ_BYTES)
            if not part:
                return Outcome(error="it closed the connection without an answer", sent=True)
            received += len(part)
            connection.receive_data(part)
    # Without a limit, endless 1xx answers would occupy the event loop.
    why = f"the head of its answer did not end within {MOST_HEAD_BYTES:,} bytes"
    return Outcome(error=why, sent=True)


def _outcome(answer: h11.Response) -> Outcome:
    status = answer.status_code
    headers = dict(answer.headers)
    error = None if 200 <= status < 300 else f"it answered {status}"
    if 300 <= status < 400 and b"location" in headers:
        error = f"it answered {status}; redirects are not followed"
    retry_after_s = 0.0
    if status in (429, 503):
        retry_after_s = _seconds(headers.get(b"retry-after", b"").decode("latin-1"))
    return Outcome(status, error, True, retry_after_s)


def _seconds(text: str) -> float:
    """Parse a `Retry-After` (seconds or a date); return at most `LONGEST_PAUSE_SECONDS`."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    if not math.isfinite(seconds):
        return 0.0
    return min(max(seconds, 0.0), LONGEST_PAUSE_SECONDS)
