"""One attempt to send a message to a webhook, signed by the rules of standardwebhooks.com.

Its name is looked up and every address checked, so that none leads into the service's network.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import secrets
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import h11
import httpx2

from service.errors import InvalidField
from service.ops.threads import MonitoredThreadPool
from service.watch.addresses import THIS_MACHINE, Address, PermittedAddresses, parse_url
from service.watch.tables.webhooks import StoredWebhook

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
# A thread looks up a name, which may take half a minute.
LOOK_UPS_AT_ONCE = 40
# Upper bound on the pause that a receiver may ask for.
LONGEST_PAUSE_SECONDS = 43_200.0
# Limit in characters.
MAX_URL = 2048
# Number of addresses of one name that are tried in turn.
MOST_ADDRESSES = 3


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

    def __init__(self, permitted: PermittedAddresses) -> None:
        self._permitted = permitted
        self._certificates: ssl.SSLContext | None = None
        # Callers take turns, so that hanging name servers of one webhook or key delay no other.
        self._threads = MonitoredThreadPool(LOOK_UPS_AT_ONCE, "webhook names")

    async def require_usable(self, url: str, may_name_this_machine: bool) -> None:
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                parsed, addresses = await self._resolve(url)
        except TimeoutError as error:
            raise InvalidField("url: its name could not be looked up in time") from error
        if may_name_this_machine or parsed.host not in THIS_MACHINE:
            return
        if not all(self._permitted.permits_private(parsed, address) for address in addresses):
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
                url, addresses = await self._resolve(webhook.url)
                return await self._post(url, addresses, headers, body)
        except InvalidField as error:
            return Outcome(error=error.detail)
        except TimeoutError:
            return Outcome(error=f"no answer came within {ATTEMPT_SECONDS:g} s", sent=True)

    async def _resolve(self, text: str) -> tuple[httpx2.URL, Sequence[Address]]:
        """Look up the host of a URL once, and check every address of it.

        Returns:
            The URL, and the addresses to connect to, in order.

        Raises:
            InvalidField: the URL cannot be used.
        """
        url = parse_url(text)
        try:
            results = await self._threads.run(
                socket.getaddrinfo, url.host, None, type=socket.SOCK_STREAM
            )
        except (OSError, UnicodeError) as error:
            remedy = "check how it is written"
            if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
                remedy = "no name server answers this machine"
            raise InvalidField(
                f"url: the name {url.host!r} cannot be looked up; {remedy}"
            ) from error
        # A link-local address may end with the name of an interface.
        texts = [str(socket_address[0]).partition("%")[0] for *_, socket_address in results]
        addresses = [ipaddress.ip_address(text) for text in dict.fromkeys(texts)]
        for address in addresses:
            self._permitted.require(url, address)
        return url, addresses[:MOST_ADDRESSES]

    async def _post(
        self,
        url: httpx2.URL,
        addresses: Sequence[Address],
        headers: dict[str, str],
        body: bytes,
    ) -> Outcome:
        tls = await self._load_certificates() if url.scheme == "https" else None
        port = url.port or (443 if tls else 80)
        # The certificate is checked for the name, not for the address.
        name = url.raw_host.decode() if tls else None
        outcome = Outcome(error="its name stands for no address")
        for address in addresses:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    reader, writer = await asyncio.open_connection(
                        str(address), port, ssl=tls, server_hostname=name
                    )
            except OSError as error:
                outcome = Outcome(error=_explain_failed_connection(error))
                continue
            try:
                return await _exchange(reader, writer, url, headers, body)
            except h11.ProtocolError:
                return Outcome(
                    error="its answer is not HTTP; name the address of a web server", sent=True
                )
            except OSError:
                return Outcome(error="it closed the connection without an answer", sent=True)
            finally:
                writer.transport.abort()
        return outcome

    async def _load_certificates(self) -> ssl.SSLContext:
        """Return the certificates of authorities; the first call reads them, in 40 ms."""
        if self._certificates is None:
            self._certificates = await self._threads.run(httpx2.create_ssl_context)
        return self._certificates

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _explain_failed_connection(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"[:200]
    if isinstance(error, ssl.SSLError):
        return "it does not answer by https; name an address that does"
    if isinstance(error, TimeoutError):
        return f"nothing answered at this address within {CONNECT_SECONDS:g} s"
    if isinstance(error, ConnectionError):
        return "nothing answers at this address; start the receiver there, or name another one"
    return "there is no way to this address from here; check the network of this machine"


async def _exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    url: httpx2.URL,
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
    for event in (request, h11.Data(body), h11.EndOfMessage()):
        writer.write(connection.send(event) or b"")
    await writer.drain()
    received = 0
    while received <= MOST_HEAD_BYTES:
        answer = connection.next_event()
        if isinstance(answer, h11.Response):
            return _read_outcome(answer)
        if answer is h11.NEED_DATA:
            part = await reader.read(READ_BYTES)
            if not part:
                return Outcome(error="it closed the connection without an answer", sent=True)
            received += len(part)
            connection.receive_data(part)
    # Without a limit, endless 1xx answers would occupy the event loop.
    reason = f"the head of its answer did not end within {MOST_HEAD_BYTES:,} bytes"
    return Outcome(error=reason, sent=True)


def _read_outcome(answer: h11.Response) -> Outcome:
    status = answer.status_code
    headers = dict(answer.headers)
    error = None if 200 <= status < 300 else f"it answered {status}"
    if 300 <= status < 400 and b"location" in headers:
        error = f"it answered {status}; redirects are not followed"
    retry_after_s = 0.0
    if status in (429, 503):
        retry_after_s = _parse_retry_after(headers.get(b"retry-after", b"").decode("latin-1"))
    return Outcome(status, error, True, retry_after_s)


def _parse_retry_after(text: str) -> float:
    """Parse a `Retry-After` (seconds or a date); return at most `LONGEST_PAUSE_SECONDS`."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    # If `seconds` is NaN, `max` returns its first argument.
    return min(max(0.0, seconds), LONGEST_PAUSE_SECONDS)
