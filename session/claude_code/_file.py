"""One transcript on its way into its session."""

from __future__ import annotations

import hashlib
import os
import zlib
from itertools import chain, pairwise
from typing import TYPE_CHECKING, BinaryIO, Final

import msgspec

from session.claude_code._written import Written
from session.claude_code.lines import nests_too_deep
from session.claude_code.plan import ORIGIN, REVISION
from session.claude_code.transcripts import MAX_LINE_BYTES, Batch, batches, lines_of
from session.events import SourceRecorded
from session.transfer.report import RefusedError, Skipped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from session.claude_code.plan import Plan
    from session.claude_code.transcripts import Transcript
    from session.storage import BlockingEventSessionStorage
    from session.transfer.report import Reason

_COMPRESSION: Final = 1  # a level: the evidence must not take longer than what is made of it
_HELD_EVENTS: Final = 4_000
_PIECE_BYTES: Final = 2**20


class FileImport:
    """Takes in what *file* has behind *last*, the newest evidence in the store; *plan* stands there.

    With *settled* nothing is written where nothing is new. `unfinished` is what to record when the titles are given
    that the file has for others.
    """

    def __init__(
        self,
        storage: BlockingEventSessionStorage,
        plan: Plan,
        file: Transcript,
        last: SourceRecorded | None,
        *,
        settled: bool = False,
    ) -> None:
        self._plan = plan
        self._file = file
        self._last = last
        self._written = Written(storage, plan)
        self._end = last.offset + last.size if last else 0
        self._digest = hashlib.sha256()
        self._hashed = 0
        self._settled = settled
        self.added = False
        self.unfinished: SourceRecorded | None = None

    def take(self) -> None:
        """Take over what the plan has come to: what of it the store lacks waits to be written."""
        self._written.take()

    def places(self) -> dict[str, str]:
        """Where sub-agents were called, by their ids and by those of the calls."""
        return places_of(self._plan, self._written)

    def read(self, opened: BinaryIO, progress: Callable[[int], None]) -> Iterator[Skipped]:
        """Take in the lines that are new, and say in the store how far that was. Yields what was left out.

        Raises `RefusedError` if the part that was taken in before has changed.
        """
        first_line = self._check_beginning(opened)
        progress(self._end)
        self.take()
        for batch, following in pairwise(chain(batches(opened, self._end, first_line), [None])):
            if batch is not None:
                self._take_in(batch, opened, ended=following is None)
                yield from self._left_out(batch)
                progress(batch.size)
        self._plan.end()
        self._finish()

    def _check_beginning(self, opened: BinaryIO) -> int:
        """Hash the part that was taken in before. Returns the number of the line behind it."""
        line = 1
        while self._hashed < self._end and (
            piece := os.pread(opened.fileno(), min(_PIECE_BYTES, self._end - self._hashed), self._hashed)
        ):
            self._digest.update(piece)
            self._hashed += len(piece)
            line += piece.count(b"\n")
        if self._last is not None and self._digest.digest() != self._last.digest:
            raise RefusedError("altered", "what was imported of this file before does not stand there any more")
        return line

    def _take_in(self, batch: Batch, opened: BinaryIO, *, ended: bool) -> None:
        self.added = True
        self._end = batch.offset + batch.size
        self._check_in(batch, opened)
        self._plan.source(
            SourceRecorded(
                ORIGIN,
                REVISION,
                self._file.path.name,
                batch.offset,
                batch.size,
                zlib.compress(batch.text, _COMPRESSION) if batch.text else b"",
                self._digest.digest(),
                ended=ended,
            )
        )
        add_lines(self._plan, batch)
        self._written.take()
        if self._written.others_wait or self._written.waiting > _HELD_EVENTS:
            self._written.write()

    def _check_in(self, batch: Batch, opened: BinaryIO) -> None:
        """Add *batch* to the digest."""
        if batch.text:
            self._digest.update(batch.text)
            self._hashed += len(batch.text)
        while self._hashed < self._end:
            piece = os.pread(opened.fileno(), min(_PIECE_BYTES, self._end - self._hashed), self._hashed)
            if not piece:
                raise RefusedError("altered", "it was cut while it was read")
            self._digest.update(piece)
            self._hashed += len(piece)

    def _left_out(self, batch: Batch) -> Iterator[Skipped]:
        shown = str(self._file.path)
        if batch.left_out:
            yield Skipped(shown, "too_long", batch.first_line, f"{batch.left_out:,} bytes, over {MAX_LINE_BYTES:,}")
        garbage = self._plan.garbage
        texts = batch.text.split(b"\n") if garbage else []
        for number in garbage:
            reason: Reason = "too_deep" if nests_too_deep(texts[number]) else "not_json"
            yield Skipped(shown, reason, batch.first_line + number)
        garbage.clear()

    def _finish(self) -> None:
        """Write what waits, and say that all of it is there: last, so that it is true."""
        self._written.take()
        if self._written.others_wait:
            self._written.write()
        if self._file.size > self._end:
            self._plan.counts["torn last line, left for the next time"] = 1
        if self.added or not self._settled:
            self._plan.source(self._done())
            self._written.take()
            self._written.write()

    def _done(self) -> SourceRecorded:
        done = SourceRecorded(
            ORIGIN,
            REVISION,
            self._file.path.name,
            self._end,
            0,
            digest=self._digest.digest(),
            ended=True,
            modified_ns=self._file.modified_ns,
            file_size=self._file.size,
        )
        if not self._plan.titles:
            return done
        self.unfinished = done
        return msgspec.structs.replace(done, modified_ns=0)  # so that a run that is killed before gives them again


def places_of(plan: Plan, written: Written) -> dict[str, str]:
    """The places in the store where *plan* has sub-agents called, by their ids and by those of the calls."""
    return {name: written.place(at) for name, at in (plan.calls | plan.agents).items()}


def add_lines(plan: Plan, batch: Batch) -> None:
    """Add the lines of *batch* to *plan*."""
    if batch.left_out:
        plan.counts["lines over the limit, left out"] += 1
    for number, line in lines_of(batch.text):
        plan.add(line, number)


def replay_part(plan: Plan, event: SourceRecorded) -> None:
    """Add what *event* is the evidence of to *plan*, as when it was read."""
    if event.revision != REVISION or event.importer != ORIGIN:
        raise RefusedError("newer_format", "it was imported by another version of the importer")
    plan.source(event)
    text = evidence_text(event)
    add_lines(plan, Batch(event.offset, text, 1, 0 if text else event.size))
    if event.ended:
        plan.end()


def evidence_text(event: SourceRecorded) -> bytes:
    """The lines that *event* is the evidence of."""
    return zlib.decompressobj().decompress(event.data, 2 * MAX_LINE_BYTES) if event.data else b""
