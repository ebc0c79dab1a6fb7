"""A Milvus server: collections of rows, written and searched under time limits.

A search may show an earlier state than the last write: it waits for a timestamp that the server
itself gave out after the write. Deletes answer none and inserts need not, so it is asked for one.
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

from service.errors import CollectionUnavailable, IndexUnavailable
from service.milvus.rows import LARGEST_LIMIT, PREFIX, Codes, Hit, LabelRow, Row
from service.search.filters import Filter

# It logs every error with the request, which is raised anyway.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
OLDEST_SERVER = (2, 3)
NOT_LOADED = 101
COLLECTION_AWAY = {
    100: "a collection is gone; it is built anew",
    NOT_LOADED: "a collection is being loaded",
}
SEARCH_SECONDS = 1.0
WRITE_SECONDS = 10.0
SCHEMA_SECONDS = 60.0
NUMBERS = ("crop", "grp", "camera")


class MilvusServer:
    """One server, connected when it is first needed; used from any thread."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._lock = threading.Lock()
        self._client: MilvusClient | None = None

    def create(self, collection: str, dimension: int) -> None:
        # Types that every server knows: an unknown one ends Milvus 2.3, at each restart again.
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("v", DataType.FLOAT_VECTOR, dim=dimension)
        for name in NUMBERS:
            schema.add_field(name, DataType.INT64)
        schema.add_field("captured", DataType.DOUBLE)
        indexes = MilvusClient.prepare_index_params()
        indexes.add_index("v", index_type="FLAT", metric_type="IP")
        with self._answering() as client:
            client.create_collection(
                collection, schema=schema, index_params=indexes, timeout=SCHEMA_SECONDS
            )

    def collections(self) -> list[str]:
        with self._answering() as client:
            found = client.list_collections(timeout=SEARCH_SECONDS)
        return [name for name in found if name.startswith(PREFIX)]

    def drop(self, collection: str) -> None:
        """Drop a collection; one that is gone is no error."""
        with self._answering() as client:
            client.drop_collection(collection, timeout=SCHEMA_SECONDS)

    def upsert(self, collection: str, rows: Sequence[Row]) -> None:
        if rows:
            with self._answering(collection) as client:
                client.upsert(collection, list(rows), timeout=WRITE_SECONDS)

    def delete(self, collection: str, row_ids: Sequence[int]) -> None:
        """Delete rows; rows that are gone are no error."""
        if row_ids:
            with self._answering(collection) as client:
                client.delete(collection, ids=list(row_ids), timeout=WRITE_SECONDS)

    def timestamp(self) -> int:
        """Return a time of the server after all that it has acknowledged; 0 of milvus-lite."""
        with self._answering() as client:
            # The client offers it nowhere else; an insert's answer would need a row for a marker.
            handler: Any = client._get_connection()
            return int(handler.alloc_timestamp(timeout=WRITE_SECONDS))

    def search(
        self,
        collection: str,
        query: NDArray[np.float32],
        limit: int,
        wanted: Filter,
        codes: Codes,
        timestamp: int,
        grouped: bool = False,
    ) -> list[Hit]:
        """Search the rows nearest to a query, as they were at a timestamp or later.

        Args:
            query: of unit length, `(d,)`.
            limit: at most; cut to what Milvus allows.
            timestamp: of this server, which the search waits for.
            grouped: only the nearest of each group; Milvus 2.3 answers several of one group from
                rows that it has not indexed yet.
        """
        with self._answering(collection) as client:
            (found,) = client.search(
                collection,
                data=[query],
                anns_field="v",
                filter=codes.expression(wanted),
                limit=min(limit, LARGEST_LIMIT),
                search_params={"metric_type": "IP"},
                output_fields=["crop", "grp", "v"],
                # Where the server gives out no timestamps, 0 waits for everything.
                consistency_level="Customized",
                guarantee_timestamp=timestamp,
                timeout=SEARCH_SECONDS,
                **({"group_by_field": "grp"} if grouped else {}),
            )
        return [hit["entity"] | {"id": hit["id"]} for hit in found]

    def rows(self, collection: str, first: int, end: int, timestamp: int) -> list[LabelRow]:
        fields = ["id", *NUMBERS, "captured"]
        return self._query(collection, f"id >= {first} and id < {end}", fields, timestamp)

    def count(self, collection: str, timestamp: int) -> int:
        (counted,) = self._query(collection, "", ["count(*)"], timestamp)
        return int(counted["count(*)"])

    def compact(self, collection: str) -> int:
        """Begin to remove deleted rows from a collection's files; return the work's number."""
        with self._answering(collection) as client:
            client.flush(collection, timeout=WRITE_SECONDS)
            return int(client.compact(collection, timeout=WRITE_SECONDS))

    def is_compacted(self, number: int) -> bool:
        with self._answering() as client:
            return str(client.get_compaction_state(number, timeout=WRITE_SECONDS)) == "Completed"

    def _query(
        self, collection: str, expression: str, fields: list[str], timestamp: int
    ) -> list[Any]:
        # Not by the client's iterator, which waits for a time of this machine's clock.
        with self._answering(collection) as client:
            found: list[Any] = client.query(
                collection,
                filter=expression,
                output_fields=fields,
                consistency_level="Customized",
                guarantee_timestamp=timestamp,
                timeout=WRITE_SECONDS,
            )
        return found

    def close(self) -> None:
        with self._lock:
            if self._client:
                self._client.close()
            self._client = None

    @contextlib.contextmanager
    def _answering(self, collection: str = "") -> Iterator[MilvusClient]:
        try:
            client = self._connected()
            try:
                yield client
            except MilvusException as error:
                if collection and error.code == NOT_LOADED:
                    client.load_collection(collection, timeout=SEARCH_SECONDS, _async=True)
                raise
        # The client raises the last for a channel that another thread has just replaced.
        except (MilvusException, grpc.RpcError, ValueError) as error:
            code = error.code() if isinstance(error, grpc.RpcError) else getattr(error, "code", 0)
            if code in COLLECTION_AWAY:
                raise CollectionUnavailable(COLLECTION_AWAY[code]) from error
            raise IndexUnavailable(f"it does not answer ({code or 'closed'})") from error

    def _connected(self) -> MilvusClient:
        with self._lock:
            if self._client is None:
                client = MilvusClient(self.url, timeout=SEARCH_SECONDS)
                try:
                    found = str(client.get_server_version(timeout=SEARCH_SECONDS))
                    version = tuple(map(int, re.findall(r"\d+", found)[:2]))
                    if version < OLDEST_SERVER:
                        raise IndexUnavailable(
                            f"it is version {found}, and 2.3 or newer is needed; name another "
                            "server in GMN_INDEX_URL"
                        )
                except BaseException:
                    client.close()
                    raise
                self._client = client
            return self._client
