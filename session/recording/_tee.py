"""The body of a response, shown to us before the program sees it. What we rely on in the SDK and its HTTP client.

1. Every reader of a streamed body (the SDK's streams, `iter_bytes`, `iter_lines`, `read`) goes through the methods
   `iter_bytes` or `aiter_bytes` of the `httpx2.Response`, which give it decompressed. `iter_raw` does not: a program
   that uses it leaves the stream, as far as we see.
2. Whoever leaves a stream calls `close` or `aclose` of the response.
3. Where nothing is to be decompressed, `iter_raw` and `aiter_raw` give the same chunks, through one generator less (and
   the last one, where a `chunk_size` is asked for, before the response is closed).

The methods of 1 and 2 are replaced on the object itself until the body is over: object and replacement hold each other,
and would wait for the garbage collector. `tests/session/recording/test_recorder_readers.py` holds that the SDK still
calls them.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from session.sdk import gives_what_came
from session.storage._now import run_now

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    import httpx2

Piece: TypeAlias = tuple[float, bytes]
"""A chunk of a body, and when it came."""


class Witness(Protocol):
    """Is told of a body as it is read. What it raises ends the reading.

    Most of a stream are small chunks that ask for nothing at once. For them no function of ours is called: `note` and
    `passes` are functions written in C, as a rule.
    """

    note: Callable[[Piece], None]
    """Told of each chunk, and when it came (`time.monotonic`), before it is handed over."""
    passes: Callable[[bytes], object]
    """Whether a chunk may be handed over without `takes`."""
    is_over: bool
    """After `takes`: whether it wants to be told of nothing more, the end neither."""

    def takes(self) -> Coroutine[Any, Any, None] | None:
        """What was noted last is about to be handed over: what must be done first, if anything."""

    async def ended(self) -> None:
        """There is no more."""

    async def broke(self, error: Exception) -> None:
        """The transport raised *error* in place of the next chunk."""

    async def left(self) -> None:
        """The reader went away before the end."""

    def abandoned(self) -> None:
        """Nobody has the response any more, and nobody closed it. Called by the garbage collector, at any moment and in
        any thread: it may wait for nothing.
        """


def show(response: httpx2.Response, witness: Witness) -> None:
    """Show *witness* the body of *response* as a synchronous reader reads it."""
    _Shown(response, witness)


def show_async(response: httpx2.Response, witness: Witness) -> None:
    """As `show`, for asynchronous readers."""
    _AsyncShown(response, witness)


class _Shown:
    def __init__(self, response: httpx2.Response, witness: Witness) -> None:
        self._read = response.iter_raw if gives_what_came(response, "iter_bytes") else response.iter_bytes
        self._close = response.close
        self._witness: Witness | None = witness
        self._pulling = False
        self._replaced = _Replaced(response, iter_bytes=self.iter_bytes, close=self.close)

    def iter_bytes(self, chunk_size: int | None = None) -> Iterator[bytes]:
        source = iter(self._read(chunk_size))
        while True:  # one frame for each chunk: most of what a stream costs
            self._pulling = True  # at its end the source closes the response: that is no leaving
            try:
                chunk = next(source, None)
            except Exception as error:
                if witness := self._gone():
                    run_now(witness.broke(error))
                raise
            finally:
                self._pulling = False
            if chunk is None:
                break
            if (witness := self._witness) is not None:
                witness.note((monotonic(), chunk))
                if not witness.passes(chunk):
                    self._show(witness)
            yield chunk
        if witness := self._gone():
            run_now(witness.ended())

    def _show(self, witness: Witness) -> None:
        if work := witness.takes():
            run_now(work)
        if witness.is_over:
            self._gone()

    def close(self) -> None:
        try:
            if not self._pulling and (witness := self._gone()):
                run_now(witness.left())
        finally:
            self._close()

    def _gone(self) -> Witness | None:
        witness, self._witness = self._witness, None
        self._replaced.undo()
        return witness

    def __del__(self) -> None:
        if witness := self._gone():
            witness.abandoned()


class _AsyncShown:
    def __init__(self, response: httpx2.Response, witness: Witness) -> None:
        self._read = response.aiter_raw if gives_what_came(response, "aiter_bytes") else response.aiter_bytes
        self._close = response.aclose
        self._witness: Witness | None = witness
        self._pulling = False
        self._replaced = _Replaced(response, aiter_bytes=self.aiter_bytes, aclose=self.aclose)

    async def aiter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        source = aiter(self._read(chunk_size))
        while True:
            self._pulling = True
            try:
                chunk = await anext(source, None)
            except Exception as error:
                if witness := self._gone():
                    await witness.broke(error)
                raise
            except BaseException:
                if witness := self._gone():
                    await witness.left()
                raise
            finally:
                self._pulling = False
            if chunk is None:
                break
            if (witness := self._witness) is not None:
                witness.note((monotonic(), chunk))
                if not witness.passes(chunk):
                    await self._show(witness)
            yield chunk
        if witness := self._gone():
            await witness.ended()

    async def _show(self, witness: Witness) -> None:
        if work := witness.takes():
            await work
        if witness.is_over:
            self._gone()

    async def aclose(self) -> None:
        try:
            if not self._pulling and (witness := self._gone()):
                await witness.left()
        finally:
            await self._close()

    def _gone(self) -> Witness | None:
        witness, self._witness = self._witness, None
        self._replaced.undo()
        return witness

    def __del__(self) -> None:
        if witness := self._gone():
            witness.abandoned()


class _Replaced:
    """Methods of a response that stand on the object itself, in front of those of its class."""

    def __init__(self, response: httpx2.Response, **methods: Any) -> None:  # noqa: ANN401 - methods of the response
        self._instead = vars(response)
        self._methods = methods
        self._instead.update(methods)

    def undo(self) -> None:
        """Take them away, but for those that somebody else has put others in front of."""
        for name, method in self._methods.items():
            if self._instead.get(name) == method:
                self._instead.pop(name, None)  # or another thread has
        self._methods = {}
