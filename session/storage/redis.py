"""Sessions as values of a Redis server."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Final

from session.errors import SessionFileError, StorageUnavailableError
from session.storage.base import check_session_id, is_session_id
from session.storage.document import from_document, to_document

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from redis.asyncio import Redis

    from session.state import SessionState

DEFAULT_PREFIX: Final = "session:"
DEFAULT_TIMEOUT_SECONDS: Final = 5.0

_SCAN_COUNT: Final = 1_000
_RETRIES: Final = 2
_LONGEST_PAUSE_SECONDS: Final = 0.1
_WRONG_TYPE: Final = "WRONGTYPE"


class RedisSessionStorage:
    """One value per session under `<prefix><id>` on the server at *url* (`redis://`, `rediss://`, `unix://`). Needs the
    `redis` package (extra `[redis]`).

    A value is the JSON text of `session.storage.document`, replaced as a whole. `version` is not kept, the last writer
    wins. What a save survives is the server's choice (`appendonly`, `appendfsync`). A server that is down, or silent
    for *timeout_seconds*, raises `StorageUnavailableError`; a save that timed out may have happened.

    Any event loop may use it, each with connections of its own, which `aclose` (or `async with`) in that loop closes.
    Raises `ValueError` for a URL of another kind.
    """

    def __init__(
        self, url: str, prefix: str = DEFAULT_PREFIX, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    ) -> None:
        from redis.asyncio.connection import parse_url  # noqa: PLC0415 - `import session` must not cost it

        parse_url(url)  # what is wrong with it is to be told here
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._clients: dict[asyncio.AbstractEventLoop, Redis] = {}
        self._prefix = prefix
        self._place = re.sub(r"//[^/]*@", "//", url.partition("?")[0])  # without user and password

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._place!r} {self._prefix!r}>"

    async def save(self, state: SessionState, /) -> SessionState:
        """See `SessionStorage.save`. Raises `InvalidMetadataError` and `InvalidStateError`."""
        key = self._key(state.id)
        document = to_document(state)
        with self._translated(key):
            await self._client().set(key, document)
        return state

    async def load(self, session_id: str, /) -> SessionState | None:
        """See `SessionStorage.load`. Raises `SessionFileError` for a value that is no session."""
        key = self._key(session_id)
        with self._translated(key):
            document = await self._client().get(key)
        if document is None:
            return None
        assert isinstance(document, bytes), "it is not to be decoded"
        return from_document(document, session_id, f"{self._place} {key}")

    async def delete(self, session_id: str, /) -> None:
        """See `SessionStorage.delete`."""
        key = self._key(session_id)
        with self._translated(key):
            await self._client().delete(key)

    async def list(self) -> builtins.list[str]:
        """See `SessionStorage.list`. Scans the server's keys in steps, so that others are served in between."""
        pattern = re.sub(r"([\\*?\[\]])", r"\\\1", self._prefix) + "*"
        with self._translated(self._prefix):
            keys = {key async for key in self._client().scan_iter(match=pattern, count=_SCAN_COUNT)}  # may repeat some
        names = (key.decode("utf-8", "replace").removeprefix(self._prefix) for key in keys)
        return [name for name in names if is_session_id(name)]

    async def aclose(self) -> None:
        """Close the connections of this event loop. Closing twice is fine."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _client(self) -> Redis:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            for over in [other for other in list(self._clients) if other.is_closed()]:
                self._clients.pop(over, None)
            self._clients[loop] = _connected(self._url, self._timeout_seconds)
        return self._clients[loop]

    def _key(self, session_id: str) -> str:
        return self._prefix + check_session_id(session_id)

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        from redis.exceptions import RedisError, ResponseError  # noqa: PLC0415

        try:
            yield
        except (RedisError, OSError) as error:
            if isinstance(error, ResponseError) and str(error).startswith(_WRONG_TYPE):
                raise SessionFileError(f"{self._place} {key}", "it is no string") from error
            raise StorageUnavailableError(self._place, str(error) or type(error).__name__) from error


def _connected(url: str, timeout_seconds: float) -> Redis:
    from redis.asyncio import Redis  # noqa: PLC0415 - `import session` must not cost it
    from redis.asyncio.retry import Retry  # noqa: PLC0415
    from redis.backoff import ExponentialBackoff  # noqa: PLC0415
    from redis.exceptions import ConnectionError as LostConnectionError  # noqa: PLC0415

    client: Redis = Redis.from_url(
        url,
        decode_responses=False,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        # Not after a timeout: each attempt would take that long again.
        retry=Retry(ExponentialBackoff(cap=_LONGEST_PAUSE_SECONDS, base=0.01), _RETRIES, (LostConnectionError,)),
    )
    return client
