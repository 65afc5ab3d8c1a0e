"""One request and the response to it, recorded as it happens.

    sending   request_sent, once per attempt, at exactly the version that the messages were taken at
    streaming block_received as each block ends
    complete  usage_recorded + response_received, in one commit
    otherwise response_interrupted: cut, error or cancelled, with what there was of an unfinished block, in one commit
              with usage_recorded, as far as the API had told it: it is charged all the same

A cancellation may come at any `await`; what was recorded by then decides what is still to be recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from typing import TYPE_CHECKING

from session import jsontext
from session.errors import MessageSetAsideError, NothingToAnswerError, ResponseCutError
from session.events import (
    BlockReceived,
    HistoryRewound,
    RequestSent,
    ResponseInterrupted,
    ResponseReceived,
)
from session.live import _tail
from session.live._keeping import Keeping
from session.live._refusals import may_be_the_message, text_of
from session.live.received import MessageReceived, Retried, Text, Thinking, ToolUse
from session.messages import describe, joined
from session.pricing import usage_recorded
from session.request import build_body
from session.response import Assembly, Delta
from session.sdk import send_exact
from session.usage import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from session.events import SessionEvent
    from session.live._context import Context
    from session.live.received import Received
    from session.response import Completed, FinishedBlock
    from session.sdk import FailedAttempt, Reply


class Answer:
    """Ask once, and take in what comes. Iterate `parts` to its end; then `message` and the others are set."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._keeping = Keeping(context.journal)
        self._request_id = f"call_{secrets.token_hex(12)}"
        self._assembly = Assembly()
        self._retried: list[Retried] = []
        self._failed: FailedAttempt | None = None
        self._messages = 0
        self._began = 0.0
        self.blocks: list[FinishedBlock] = []
        self.stop_reason = ""
        self.usage = Usage()

    async def parts(self) -> AsyncGenerator[Received, None]:
        """What is received of this response. Raises what the SDK raises, `ResponseCutError`, `MessageSetAsideError`,
        `NothingToAnswerError` and `WrongVersionError` before anything was sent, and `AnswerKeptInForkError` after
        everything has come.
        """
        try:
            async with contextlib.aclosing(self._stream()) as stream:
                async for part in stream:
                    yield part
        except BaseException as error:
            await self._interrupted(error)
            await self._set_aside(error)
            raise
        self._keeping.check()
        for block in self.blocks:
            if block.tool_use_id:
                yield ToolUse(block.tool_use_id, block.name, jsontext.parse_or_show(block.input))
        yield MessageReceived(jsontext.parse_or_show(joined("assistant", (block.block for block in self.blocks))))

    async def _stream(self) -> AsyncGenerator[Received, None]:
        body = self._body()
        async with send_exact(self._context.client(), body, stream=True, attempts=self) as reply:
            for retried in self._retried:
                yield retried
            async with contextlib.aclosing(self._read(reply)) as read:
                async for shown in read:
                    yield shown
            if self._assembly.error:
                raise reply.error_of(self._assembly.error)
            if self._assembly.fault:
                raise self._cut(self._assembly.fault)
        await self._completed(self._assembly.completed())

    def _body(self) -> bytes:
        fold = self._context.journal.fold
        entries = _tail.entries(fold)
        self._messages = len(entries)
        messages = self._context.view.update(entries, _tail.outcomes(fold), _tail.in_doubt(fold))
        if not (_ask(messages) or _tail.is_paused(fold)):
            raise NothingToAnswerError(self._context.journal.session_id)
        return build_body(fold.prompt, messages, stream=True)

    async def _read(self, reply: Reply) -> AsyncGenerator[Received, None]:
        async with contextlib.aclosing(reply.events()) as events:
            while not (self._assembly.complete or self._assembly.error or self._assembly.fault):
                for part in self._assembly.feed(await self._next(events)):
                    if isinstance(part, Delta):
                        yield Text(part.text) if part.kind == "text" else Thinking(part.text)
                    else:
                        await self._block(part)

    async def _next(self, events: AsyncGenerator[bytes, None]) -> bytes:
        try:
            return await anext(events)
        except StopAsyncIteration:
            raise self._cut("it ended early") from None
        except Exception as error:  # the transport's own errors
            raise self._cut(f"{type(error).__name__}: {error}") from error

    def _cut(self, reason: str) -> ResponseCutError:
        return ResponseCutError(self._keeping.journal.session_id, self._request_id, reason)

    # --- attempts, as the SDK makes them ------------------------------------------------------------------------------

    async def sending(self, number: int) -> None:
        """Attempt *number* is about to be sent: durable first."""
        if self._failed is not None:
            self._retried.append(Retried(self._failed.status, text_of(self._failed.error), self._failed.number))
            self._failed = None  # that this attempt is refused says nothing of the next
        self._context.own_requests.add(self._request_id)
        self._began = time.monotonic()
        await self._context.journal.record(RequestSent(self._request_id, self._messages, attempt=number, stream=True))

    async def failed(self, attempt: FailedAttempt) -> None:
        """It brought no answer."""
        self._failed = attempt
        await self._keeping.note(
            ResponseInterrupted(
                self._request_id,
                "error",
                status=attempt.status,
                error=attempt.error,
                headers=attempt.headers,
                duration_ms=attempt.duration_ms,
            )
        )

    # --- what is recorded ---------------------------------------------------------------------------------------------

    async def _block(self, block: FinishedBlock) -> None:
        self.blocks.append(block)
        await self._keeping.record(BlockReceived(self._request_id, block.index, block.block, block.tool_use_id))

    async def _completed(self, facts: Completed) -> None:
        self.blocks.sort(key=lambda block: block.index)
        received = ResponseReceived(
            self._request_id,
            facts.message_id,
            facts.model,
            facts.stop_reason,
            blocks=len(self.blocks),
            rest=facts.rest,
            duration_ms=self._milliseconds(),
        )
        self.stop_reason = facts.stop_reason or ""
        await self._keeping.record(*self._usage(facts), received)

    def _usage(self, facts: Completed) -> list[SessionEvent]:
        if not facts.usage:
            return []
        model = facts.model or self._context.journal.fold.prompt.model
        now = time.time_ns() // 1_000_000
        event = usage_recorded(
            facts.usage,
            model,
            now,
            table=self._context.prices,
            request_id=self._request_id,
            stop_details=facts.stop_details,
        )
        self.usage = Usage.from_text(facts.usage, event.cost_picodollars)
        return [event]

    async def _interrupted(self, error: BaseException) -> None:
        """Close the request in the log, if it is open there."""
        if not self._keeping.journal.fold.is_running(self._request_id):
            return
        left = isinstance(error, asyncio.CancelledError | GeneratorExit)
        reason = "cancelled" if left else "error" if self._assembly.error else "cut"
        told = self._assembly.error or (
            b"" if left else f"{type(error).__name__}: {error}".encode("utf-8", "backslashreplace")
        )
        await self._keeping.note(
            *self._usage(self._assembly.completed()),
            ResponseInterrupted(
                self._request_id,
                reason,
                error=told,
                partial=self._assembly.partial,
                duration_ms=self._milliseconds(),
            ),
        )

    async def _set_aside(self, error: BaseException) -> None:
        """If the API refused the request, and the user's newest message may be why, go on without it, and say so."""
        failed = self._failed
        if failed is None or not isinstance(error, Exception) or not may_be_the_message(failed.status, failed.error):
            return
        newest = _tail.newest(self._context.journal.fold)[-1:]
        if not newest or newest[0].role == "assistant":
            return
        if newest[0].tool_results and newest[0] is not self._context.said:
            return
        self._keeping.check()
        await self._context.journal.record(HistoryRewound(self._messages - 1, reason="refused by the API"))
        raise MessageSetAsideError(self._context.journal.session_id, failed.status, text_of(failed.error)) from error

    def _milliseconds(self) -> int:
        return round((time.monotonic() - self._began) * 1000)


def _ask(messages: Sequence[bytes]) -> bool:
    """Whether they end with the user's turn: what the system says behind it, or before anybody, asks for no answer."""
    roles = (describe(raw).role for raw in reversed(messages))
    return next((role for role in roles if role in ("user", "assistant")), "") == "user"
