"""A Milvus server: collections of rows, written and searched with timeouts.

A search might show an earlier state than the last write, so it waits for a timestamp that the
server issued after the write. Deletes return none and inserts may not, so it is requested.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from pymilvus import DataType, MilvusClient, MilvusException

from gmn_client.addresses import REMEDY, is_malformed
from model.problems import InputProblem
from service.errors import CollectionUnavailable, IndexUnavailable
from service.index.filters import SearchFilter
from service.milvus.rows import LARGEST_LIMIT, PREFIX, TOO_SLOW, Codes, Hit, LabelRow, Row

# pymilvus logs every error with the request, although it also raises the error.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
OLDEST_SERVER = (2, 3)
NOT_LOADED = 101
COLLECTION_AWAY = {
    100: "a collection is missing; it is being rebuilt",
    NOT_LOADED: "a collection is being loaded",
}
# A search and the question whether the server answers at all take less than a second together.
SEARCH_SECONDS = 0.7
PING_SECONDS = 0.25
CONNECT_SECONDS = 1.0
WRITE_SECONDS = 10.0
SCHEMA_SECONDS = 60.0
NUMBERS = ("crop", "grp", "camera")


class MilvusServer:
    """A server, connected on first use; safe to use from any thread."""

    def __init__(self, url: str) -> None:
        """Keep the address; raises `InputProblem` if it is malformed."""
        if is_malformed(url):
            raise InputProblem(
                f"GMN_INDEX_URL: {REMEDY}; write it like http://user:password@milvus:19530"
            )
        self.url = url
        self._lock = threading.Lock()
        self._client: MilvusClient | None = None

    def create(self, collection: str, dimension: int) -> None:
        # Use only types that every server knows: an unknown one crashes Milvus 2.3 at each restart.
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("v", DataType.FLOAT_VECTOR, dim=dimension)
        for name in NUMBERS:
            schema.add_field(name, DataType.INT64)
        schema.add_field("captured", DataType.DOUBLE)
        indexes = MilvusClient.prepare_index_params()
        indexes.add_index("v", index_type="FLAT", metric_type="IP")
        with self._use_client() as client:
            client.create_collection(
                collection, schema=schema, index_params=indexes, timeout=SCHEMA_SECONDS
            )

    def collections(self, seconds: float = CONNECT_SECONDS) -> list[str]:
        with self._use_client() as client:
            names = client.list_collections(timeout=seconds)
        return [name for name in names if name.startswith(PREFIX)]

    def drop(self, collection: str) -> None:
        # Milvus accepts this for a missing collection.
        with self._use_client() as client:
            client.drop_collection(collection, timeout=SCHEMA_SECONDS)

    def upsert(self, collection: str, rows: Sequence[Row]) -> None:
        if rows:
            with self._use_client(collection) as client:
                client.upsert(collection, list(rows), timeout=WRITE_SECONDS)

    def delete(self, collection: str, slots: Sequence[int]) -> None:
        # Milvus accepts this for missing rows.
        if slots:
            with self._use_client(collection) as client:
                client.delete(collection, ids=list(slots), timeout=WRITE_SECONDS)

    def timestamp(self) -> int:
        """Return a server timestamp after all acknowledged writes; 0 on milvus-lite."""
        with self._use_client() as client:
            # No public method returns it; the answer to an insert would need a marker row.
            handler: Any = client._get_connection()
            return int(handler.alloc_timestamp(timeout=WRITE_SECONDS))

    def search(
        self,
        collection: str,
        query: NDArray[np.float32],
        limit: int,
        wanted: SearchFilter,
        codes: Codes,
        timestamp: int,
        grouped: bool = False,
    ) -> list[Hit]:
        """Search the rows nearest to a query, in the state of a timestamp or later.

        Args:
            query: vector `(d,)` of unit length.
            limit: maximum number of rows; reduced to what Milvus allows.
            timestamp: timestamp from this server that the search waits for.
            grouped: only the nearest of each group; Milvus 2.3 may return several of a group among
                rows that it has not indexed yet.
        """
        with self._use_client(collection, searches=True) as client:
            (hits,) = client.search(
                collection,
                data=[query],
                anns_field="v",
                filter=codes.expression(wanted),
                limit=min(limit, LARGEST_LIMIT),
                search_params={"metric_type": "IP"},
                output_fields=["crop", "grp", "v"],
                # If the server issues no timestamps, 0 waits for everything.
                consistency_level="Customized",
                guarantee_timestamp=timestamp,
                timeout=SEARCH_SECONDS,
                **({"group_by_field": "grp"} if grouped else {}),
            )
        return [hit["entity"] | {"id": hit["id"]} for hit in hits]

    def rows(self, collection: str, first: int, end: int, timestamp: int) -> list[LabelRow]:
        fields = ["id", *NUMBERS, "captured"]
        return self._query(collection, f"id >= {first} and id < {end}", fields, timestamp)

    def count(self, collection: str, timestamp: int) -> int:
        (row,) = self._query(collection, "", ["count(*)"], timestamp)
        return int(row["count(*)"])

    def compact(self, collection: str) -> int:
        """Start removing deleted rows from a collection's files; return the compaction's id."""
        with self._use_client(collection) as client:
            client.flush(collection, timeout=WRITE_SECONDS)
            return int(client.compact(collection, timeout=WRITE_SECONDS))

    def is_compacted(self, number: int) -> bool:
        with self._use_client() as client:
            return str(client.get_compaction_state(number, timeout=WRITE_SECONDS)) == "Completed"

    def _query(
        self, collection: str, expression: str, fields: list[str], timestamp: int
    ) -> list[Any]:
        # The client's iterator would wait for a time by this machine's clock.
        with self._use_client(collection) as client:
            rows: list[Any] = client.query(
                collection,
                filter=expression,
                output_fields=fields,
                consistency_level="Customized",
                guarantee_timestamp=timestamp,
                timeout=WRITE_SECONDS,
            )
        return rows

    def close(self) -> None:
        with self._lock:
            if self._client:
                self._client.close()
            self._client = None

    @contextlib.contextmanager
    def _use_client(self, collection: str = "", searches: bool = False) -> Iterator[MilvusClient]:
        try:
            client = self._connect()
            try:
                yield client
            except MilvusException as error:
                if collection and error.code == NOT_LOADED:
                    client.load_collection(collection, timeout=CONNECT_SECONDS, _async=True)
                raise
        # The client raises ValueError if another thread has just replaced the channel.
        except (MilvusException, grpc.RpcError, ValueError) as error:
            code = error.code() if isinstance(error, grpc.RpcError) else getattr(error, "code", 0)
            if code in COLLECTION_AWAY:
                raise CollectionUnavailable(COLLECTION_AWAY[code]) from error
            if searches and code == grpc.StatusCode.DEADLINE_EXCEEDED:
                # A slow request alone is no sign of a dead server, unless a small one hangs too.
                self.collections(PING_SECONDS)
                raise CollectionUnavailable(TOO_SLOW) from error
            raise IndexUnavailable(f"it does not answer ({code or 'closed'})") from error

    def _connect(self) -> MilvusClient:
        with self._lock:
            if self._client is None:
                client = MilvusClient(self.url, timeout=CONNECT_SECONDS)
                try:
                    text = str(client.get_server_version(timeout=CONNECT_SECONDS))
                    version = tuple(int(number) for number in re.findall(r"\d+", text)[:2])
                    if version < OLDEST_SERVER:
                        raise IndexUnavailable(
                            f"it is version {text}, and 2.3 or newer is needed; name another "
                            "server in GMN_INDEX_URL"
                        )
                except BaseException:
                    client.close()
                    raise
                self._client = client
            return self._client
