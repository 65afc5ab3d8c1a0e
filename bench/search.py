"""How long does a search over 100,000 messages take, once they are indexed?

Bar: at most 150 ms in process, for each kind of question: a word that stands in every message, a rare one, a phrase, a
beginning, a tool's errors, a week. What is found is compared with what reading every message finds.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from bench.harness import Contestant, Finding, Result, Size, content_hash, file_bytes, interleave, median_seconds
from bench.report import run_alone
from bench.workload import Text
from session.events import MessageAppended, SessionCreated, ToolReturned
from session.search import Filters, SearchIndex
from session.storage.blocking import BlockingEventSessionStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from session.events import SessionEvent

QUESTION = "how long does a search over 100,000 messages take, once they are indexed?"
MOST_SECONDS: Final = 0.150
_SESSION_MESSAGES = 100
_RARE = "a needle in it"
_RARELY = 1_009  # one message in so many has it
_REPEATS = 5

_QUESTIONS: Final[dict[str, tuple[str, Filters]]] = {
    "a word of every message": ("common", Filters()),
    "a rare word": ("needle", Filters()),
    "a phrase": (f'"{_RARE}"', Filters()),
    "words, one of them common": ("common needle", Filters()),
    "a beginning": ("need*", Filters()),
    "the errors of a tool": ("common", Filters(tool="bash", errors=True)),
    "a time that nothing is of": ("common", Filters(since=2**52)),
    "a model that nothing is of": ("common", Filters(model="none")),
}


def run(size: Size) -> Result:
    """One store of sessions of 100 messages each, its index, and every question in turns."""
    messages = size.pick(full=100_000, small=300)
    with size.scratch() as directory:
        _write(directory / "store", messages)
        with BlockingEventSessionStorage(directory / "store", durability="os") as store, SearchIndex(store) as index:
            began = time.perf_counter()
            index.update()
            seconds = time.perf_counter() - began
            contestants = [Contestant(name, "-", _round(index, *asked)) for name, asked in _QUESTIONS.items()]
            series = interleave(size, contestants)
            found, read = _found(index), _read(store)
            indexed_bytes = file_bytes(index.directory)
    findings = [
        Finding(f"{name}, of {messages:,} messages", one.median, "s", at_most=MOST_SECONDS)
        for name, one in series.items()
    ]
    findings.append(Finding("making the index", seconds, "s"))
    findings.append(Finding("its size", indexed_bytes, "bytes"))
    hashes = {"places of the rare word": {"search": found, "reading everything": read}}
    return Result(QUESTION, list(series.values()), findings, hashes)


def _write(path: Path, messages: int) -> None:
    text = Text(7)
    with BlockingEventSessionStorage(path, durability="os") as storage:
        for first in range(0, messages, _SESSION_MESSAGES):
            session = f"sess_{first:016}"
            numbers = range(first, min(first + _SESSION_MESSAGES, messages))
            storage.append(session, [SessionCreated(session), *_messages(text, numbers)], expected=0)


def _messages(text: Text, numbers: range) -> Iterator[SessionEvent]:
    """An ask, an answer with a call, its result: 200 B, 1.2 KB, 2 KB."""
    for number in numbers:
        words = b"common %d %b" % (number, _RARE.encode() if number % _RARELY == 0 else b"")
        match number % 3:
            case 0:
                yield MessageAppended.of(b'{"role":"user","content":"%b %b"}' % (words, text.take(150)))
            case 1:
                said = b'{"type":"text","text":"%b %b"}' % (words, text.take(1_000))
                call = b'{"type":"tool_use","id":"t%d","name":"bash","input":{"command":"ls"}}' % number
                yield MessageAppended.of(b'{"role":"assistant","content":[%b,%b]}' % (said, call))
            case _:
                block = b'{"type":"tool_result","tool_use_id":"t%d","content":"%b %b"}'
                yield ToolReturned(
                    f"t{number - 1}", block % (number - 1, words, text.take(2_000)), is_error=number % 5 == 0
                )


def _round(index: SearchIndex, query: str, filters: Filters) -> Callable[[int], float]:
    return lambda _: median_seconds(lambda _: index.search(query, filters), range(_REPEATS))


def _found(index: SearchIndex) -> str:
    """The places of the rare word, by searching; and every question finds what it should."""
    for name, (query, filters) in _QUESTIONS.items():
        assert bool(index.search(query, filters).items) != ("nothing" in name), name
    places = [hit.place for hit in index.search("needle", limit=1_000_000).items]
    return content_hash(sorted(place.encode() for place in places))


def _read(storage: BlockingEventSessionStorage) -> str:
    """The same places, by looking at every message."""
    places = []
    for session in storage.list():
        for stored in storage.events(session):
            event = stored.event
            raw = event.message.raw if isinstance(event, MessageAppended) else getattr(event, "result", b"")
            if b"needle" in raw:
                places.append(f"{session}@{stored.version}")
    return content_hash(sorted(place.encode() for place in places))


if __name__ == "__main__":
    run_alone(__file__, run)
