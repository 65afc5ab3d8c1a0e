"""What a program asks, as the digest that its recording has for it."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from session import jsontext
from session.recording._asked import Parts
from session.recording.digests import START, chained, request_digest
from session.replay._requests import LogicalRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from session.recording._asked import Asked
    from session.replay._lanes import Known, Lane
    from session.state import SessionState

_CONVERSATIONS: Final = 16


class Digester:
    """Digests requests; of one that extends an earlier one only what is new. Not thread-safe."""

    def __init__(self, lanes: Iterable[Lane], redact: Callable[[str], str] | None) -> None:
        self._redact = redact
        self._threads: dict[str, Known] = {}
        for lane in lanes:
            for message_id, known in lane.threads.items():
                self._threads.setdefault(message_id, known)
        self._chains: OrderedDict[int, tuple[bytes, list[bytes], list[bytes]]] = OrderedDict()
        self._count = 0
        self._parts = Parts()

    def digest(self, asked: Asked) -> bytes:
        """That of the logical request: what a message thread leaves out is put back."""
        known = self._known(asked)
        start, prompt = (known.chain, known.prompt) if known else (START, self._parts.prompt(asked).digest)
        return request_digest(self._parts.parameters(asked).digest, prompt, self._chain(asked, start))

    def logical(self, asked: Asked, state_at: Callable[[str, int], SessionState]) -> LogicalRequest:
        """The request with all its messages."""
        part = asked.prompt_part()
        messages = [asked.message(index) for index in range(len(asked.packed))]
        system, tools = (jsontext.parse_or_show(raw) if raw else None for raw in (part.system, part.tools))
        found = LogicalRequest(asked.model, system, tools, asked.parameters, messages)
        known = self._known(asked)
        return found if known is None else found.behind(state_at(known.session_id, known.version))

    def _known(self, asked: Asked) -> Known | None:
        thread = asked.thread
        return self._threads.get(thread.previous_message_id) if thread else None

    def _chain(self, asked: Asked, start: bytes) -> bytes:
        packed = asked.packed
        number, common, chain = self._longest(start, packed)
        chain = chain[: common + 1]
        for index in range(common, len(packed)):
            chain.append(chained(chain[-1], asked.message_digest(index)))
        self._chains.pop(number, None)
        self._count += 1
        self._chains[self._count] = (start, packed, chain)
        if len(self._chains) > _CONVERSATIONS:
            self._chains.popitem(last=False)
        return chain[-1]

    def _longest(self, start: bytes, packed: list[bytes]) -> tuple[int, int, list[bytes]]:
        """The conversation that the request extends furthest: only one that it extends as a whole is replaced by it."""
        best = (0, 0, [start])
        for number, (begin, known, chain) in reversed(self._chains.items()):
            if begin != start:
                continue
            common = _common(known, packed)
            if common > best[1]:
                best = (number if common == len(known) else 0, common, chain)
            if common and common == len(known):
                break
        return best


def _common(a: list[bytes], b: list[bytes]) -> int:
    if len(a) <= len(b) and a == b[: len(a)]:
        return len(a)
    pairs = zip(a, b, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(a), len(b)))
