"""The example of the README: a storage of one's own, and the contract that it is put to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from session.storage import check_session_id, from_document, to_document
from session.testing.storage_contract import SessionStorageContract

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from pathlib import Path

    from session import SessionState


class BucketSessionStorage:
    """Keeps sessions in any mapping of names to bytes: a shelf, a bucket, a cache."""

    def __init__(self, bucket: MutableMapping[str, bytes]) -> None:
        self._bucket = bucket

    async def save(self, state: SessionState) -> None:
        self._bucket[check_session_id(state.id)] = to_document(state)

    async def load(self, session_id: str) -> SessionState | None:
        document = self._bucket.get(check_session_id(session_id))
        return None if document is None else from_document(document, session_id, "the bucket")

    async def delete(self, session_id: str) -> None:
        self._bucket.pop(check_session_id(session_id), None)

    async def list(self) -> list[str]:
        return [*self._bucket]


class TestBucketSessionStorage(SessionStorageContract):
    persistent = False  # each test has a bucket of its own

    def open(self, path: Path) -> BucketSessionStorage:
        del path
        return BucketSessionStorage({})
