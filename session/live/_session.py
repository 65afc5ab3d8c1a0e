"""An open session: what a program holds on to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from session._finishing import finished
from session.errors import AlreadyReceivingError, SessionClosedError, SessionDeletedError, ThinkingBoundError
from session.events import MessageAppended, SessionClosed
from session.live import _tail
from session.live._prompt import without_thinking
from session.live._said import said
from session.live._turn import plan_going_on, turn
from session.places import HEAD
from session.request import changed_prefix
from session.saving import plan_messages
from session.storage import WrongVersionError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
    from types import AsyncGeneratorType, TracebackType
    from typing import Self

    from session.live._context import Context
    from session.live._said import Said
    from session.live.received import Received
    from session.messages import Message
    from session.places import At
    from session.state import Pending, SessionState

    ForkOf: TypeAlias = Callable[[Context, int | str | At, Mapping[str, Any]], Callable[[], Awaitable["Session"]]]

_log: Final = logging.getLogger("session.live")

_ROUNDS_TO_UNWIND: Final = 16
"""A generator of the caller's around `receive` that was left by `break` holds the answer until the loop has closed it,
which takes two of its rounds, and two more for each generator around that.
"""


class Opening:
    """A session that is opened when this is awaited, or used in `async with`, which closes it at the end."""

    def __init__(self, open_session: Callable[[], Awaitable[Session]]) -> None:
        self._open = open_session
        self._session: Session | None = None

    def __await__(self) -> Generator[Any, None, Session]:
        return self._open().__await__()

    async def __aenter__(self) -> Session:
        self._session = await self._open()
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()


class Session:
    """A conversation that is on disk as it happens. Made by `create_session`, `resume_session` and `fork_session`.

    Whatever goes wrong, at whatever point: what the caller was told is durable, and the session can be resumed. A
    session is used by one task at a time. When another process goes on with it, `WrongVersionError` is raised before
    anything is sent; resume it then to see what the other one did.
    """

    def __init__(self, context: Context, fork_of: ForkOf) -> None:
        self._context = context
        self._fork_of = fork_of
        self._closed = False
        self._lock = asyncio.Lock()
        self._turn: AsyncGeneratorType[Received, None] | None = None
        self._receiving: weakref.ref[Receiving] | None = None
        self._opened_at = context.journal.fold.version

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<Session {self.id}: {state}, version {self._context.journal.fold.version}>"

    @property
    def id(self) -> str:
        """The id of the session: what `resume_session` and `fork_session` take."""
        return self._context.journal.session_id

    @property
    def state(self) -> SessionState:
        """The session now, as a value. Costs a copy of the list of messages."""
        return self._context.journal.fold.state()

    @property
    def pending(self) -> Pending | None:
        """What is unanswered; None: nothing is."""
        return _tail.pending(self._context.journal.fold)

    async def send(self, message: Said) -> None:
        """Append the user's *message*: a text, content blocks, or a message as a dict or exact bytes. Nothing is sent
        to the API; `receive` does.

        When this returns, the message is durable. A tool call that was left without a result gets one that says so,
        in the same commit. Raises, nothing written: `InvalidMessageError` for what no API version could take,
        `WrongVersionError` if another writer went on, `RequestOpenError` if another process' request is open,
        `AlreadyReceivingError`, `SessionClosedError`.
        """
        async with self._alone():
            checked = said(message, self.pending)
            repairs = await plan_going_on(self._context, answered=checked.tool_results)
            await self._context.journal.record(*repairs, MessageAppended(checked))
            self._context.said = checked

    def receive(self) -> Receiving:
        """The answer to what is pending, to be iterated: see `Received`. It runs tools and asks again until the model
        is done, which the last object, a `Stop`, says. Without a `send` before, it goes on with what is pending.

        `tool_use`, `tool_result`, `message` and `stop` are durable when they are seen. Cancelled, or left by `break`,
        it records what there was of a running response and stops its tools; the session stays usable, and asks again
        when it goes on. After a `break` the event loop does that, in its next rounds, once nobody holds the answer.

        Iterating raises `NothingToAnswerError`, `AlreadyReceivingError`, `SessionClosedError`; `RequestOpenError` and
        `WrongVersionError` before anything is sent; `MessageSetAsideError` if the API refuses the request and names no
        part of it but the messages; `ResponseCutError`, `AnswerKeptInForkError`; what the SDK raises, once that is
        recorded; and what `can_use_tool` raises.
        """
        return Receiving(self)

    def fork(self, *, at: int | str | At = HEAD, **options: Any) -> Opening:  # noqa: ANN401 - those of `fork_session`
        """A new session that shares everything up to *at* with this one, in the same storage, with the same tools,
        client and settings where *options* do not say otherwise. To be awaited, or used in `async with`. Nothing is
        copied, and its requests begin byte for byte as this one's.
        """
        self._check_open()
        forked = self._fork_of(self._context, at, options)

        async def opened() -> Session:
            self._check_open()  # its tools are shared, and may have been closed since
            return await forked()

        return Opening(opened)

    async def rewind(self, at: int | str | At, *, strip_thinking: bool = False) -> None:
        """Go on from what the messages were at *at*: later ones are set aside, and stay in the log. Durable when it
        returns.

        The prompt stays what it is now. If thinking up to *at* was produced under another one, it comes back only
        without it (*strip_thinking*). Raises as `send` does, and `PlaceNotFoundError`, `ThinkingBoundError`.
        """
        async with self._alone():
            journal = self._context.journal
            target = await journal.state_at(at)
            now = self.state
            messages = _coming_back(now, target, strip=strip_thinking)
            if events := plan_messages(now.messages.entries, messages, now.in_doubt):
                await journal.record(*events)

    async def close(self) -> None:
        """Close the session: a running answer is given up, tools and a client of our own are closed, the storage stays
        open. Closing twice is fine. A cancellation is raised after it. Raises `AlreadyReceivingError` while another
        task is in `receive`.
        """
        if self._closed:
            return
        if self._turn is not None and self._turn.ag_running:
            raise AlreadyReceivingError(self.id)
        self._closed = True
        await finished(self._close())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # --- one at a time ------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncGenerator[None, None]:
        self._check_open()
        async with self._lock:
            self._check_open()
            await self._check_not_receiving()
            yield

    async def _begin(self, receiving: Receiving) -> AsyncGeneratorType[Received, None]:
        async with self._alone():
            begun = self._turn = cast("AsyncGeneratorType[Received, None]", turn(self._context))
            self._receiving = weakref.ref(receiving)
            return begun

    def _ended(self) -> None:
        self._turn = self._receiving = None

    def _check_open(self) -> None:
        if self._closed:
            raise SessionClosedError(self.id)

    async def _check_not_receiving(self) -> None:
        for _ in range(_ROUNDS_TO_UNWIND):
            if self._receiving is None or self._receiving() is None:
                break
            await asyncio.sleep(0)
        else:
            raise AlreadyReceivingError(self.id)
        await self._abandon()  # nobody holds it any more: the loop that iterated it was left

    async def _leave(self, begun: AsyncGeneratorType[Received, None]) -> None:
        """Abandon *begun*, if that is still what is received. Nobody waits for this: what goes wrong is logged."""
        if self._turn is not begun:
            return
        try:
            async with self._lock:
                if self._turn is begun:
                    await self._abandon()
        except Exception:  # noqa: BLE001 - whatever the storage raises
            _log.exception("session %s: what there was of an answer that was left is not recorded", self.id)

    async def _abandon(self) -> None:
        left, self._turn, self._receiving = self._turn, None, None
        if left is not None:
            await left.aclose()

    async def _close(self) -> None:
        try:
            async with self._lock:
                await self._abandon()
                await self._record_close()
        finally:
            await self._context.aclose()

    async def _record_close(self) -> None:
        """That it was closed, if anything happened since it was opened."""
        journal = self._context.journal
        if journal.fold.version > self._opened_at:
            # Another writer has it open, or it was deleted: then there is nothing to say.
            with contextlib.suppress(WrongVersionError, SessionDeletedError):
                await journal.record(SessionClosed())


class Receiving:
    """An answer as it comes: iterate it once, to its end. Dropped before it, it is given up."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._parts: AsyncGeneratorType[Received, None] | None = None
        self._held: AsyncGenerator[None, None] | None = None
        self._done = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Received:
        if self._done:
            raise StopAsyncIteration
        if self._parts is None:
            self._parts = await self._session._begin(self)  # noqa: SLF001 - two halves of one thing
            self._held = _held(self._session, self._parts)
            await anext(self._held)
        elif self._session._turn is not self._parts:  # noqa: SLF001
            raise SessionClosedError(self._session.id)
        self._check_not_iterated()
        try:
            return await anext(self._parts)
        except BaseException:
            self._done = True
            self._session._ended()  # noqa: SLF001
            await self._let_go()
            raise

    async def aclose(self) -> None:
        """Leave it: what there was of a running response is recorded. Raises `AlreadyReceivingError` while another task
        iterates it.
        """
        if self._parts is not None and not self._done:
            self._check_not_iterated()
            self._done = True
            await self._session._abandon()  # noqa: SLF001
            await self._let_go()

    async def _let_go(self) -> None:
        if self._held is not None:
            await self._held.aclose()

    def _check_not_iterated(self) -> None:
        if self._parts is not None and self._parts.ag_running:
            raise AlreadyReceivingError(self._session.id)


async def _held(session: Session, begun: AsyncGeneratorType[Received, None]) -> AsyncGenerator[None, None]:
    """Lives as long as an answer is held. An event loop closes the generators that are dropped, also while it ends:
    that is how an answer which was left by `break` comes to be recorded.
    """
    try:
        yield
    finally:
        await session._leave(begun)  # noqa: SLF001


def _coming_back(now: SessionState, target: SessionState, *, strip: bool) -> tuple[Message, ...]:
    """The messages of *target*, fit to be sent with the prompt of *now*. Raises `ThinkingBoundError`."""
    entries = target.messages.entries
    bound = changed_prefix(target.prompt, now.prompt, target.messages.raw) if target.prompt.model else ()
    if not bound:
        return entries
    if not strip:
        raise ThinkingBoundError(now.id, bound)
    return tuple(without_thinking(entries))
