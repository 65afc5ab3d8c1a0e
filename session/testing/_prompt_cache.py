"""The prompt cache of the scripted API: what of a request was read from it, what was written to it.

By https://platform.claude.com/docs/en/build-with-claude/prompt-caching:

1. A prefix is tools, then system, then messages, block by block. `cache_control` is no part of it.
2. Each block with `cache_control` is a breakpoint; a top-level one is a breakpoint at the last block that can have one
   (not thinking, not empty text).
3. What is read is the longest cached prefix that ends at a breakpoint or at one of the 19 blocks before it.
4. Everything from there to the last breakpoint is written, and lives 5 minutes or an hour after its last use.
5. Models share nothing; another `thinking` or `tool_choice` shares tools and system only.

A token is four bytes of the block's JSON here, whatever the model.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

import msgspec

from session.testing._message_rules import blocks_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOKBACK: Final = 20
_BYTES_PER_TOKEN: Final = 4
_LIFETIME_SECONDS: Final = {"5m": 300.0, "1h": 3600.0}
_NEVER_MARKED: Final = frozenset({"thinking", "redacted_thinking"})


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """How the tokens of a request's input are charged."""

    read: int = 0
    written_5m: int = 0
    written_1h: int = 0
    rest: int = 0


class _Prefix(msgspec.Struct, frozen=True):
    """Everything up to a block. *lifetime*: "5m" or "1h" at a breakpoint."""

    digest: bytes
    tokens: int
    lifetime: str | None


class PromptCache:
    """Prefixes and until when they live. Prefixes of fewer than *min_tokens* are not cached."""

    def __init__(self, *, min_tokens: int = 0) -> None:
        self._min_tokens = min_tokens
        self._until: dict[bytes, tuple[float, float]] = {}

    def __repr__(self) -> str:
        return f"<PromptCache: {len(self._until)} prefixes>"

    def charge(self, body: dict[str, Any], now: float) -> Charge:
        """Charge the request *body*, made at *now* (seconds), and remember its prefixes."""
        prefixes = list(_prefixes(body))
        total = prefixes[-1].tokens if prefixes else 0
        marks = [at for at, prefix in enumerate(prefixes) if prefix.lifetime and prefix.tokens >= self._min_tokens]
        if not marks:
            return Charge(rest=total)
        hit = self._longest(prefixes, marks, now)
        read = 0 if hit is None else prefixes[hit].tokens
        written = {"5m": 0, "1h": 0}
        done = read
        for mark in (prefixes[at] for at in marks):
            lifetime = mark.lifetime or "5m"
            self._remember(mark.digest, _LIFETIME_SECONDS[lifetime], now)
            written[lifetime] += max(0, mark.tokens - done)
            done = max(done, mark.tokens)
        return Charge(read=read, written_5m=written["5m"], written_1h=written["1h"], rest=total - done)

    def _longest(self, prefixes: list[_Prefix], marks: list[int], now: float) -> int | None:
        for mark in reversed(marks):
            for at in range(mark, max(mark - _LOOKBACK, -1), -1):
                until, lifetime = self._until.get(prefixes[at].digest, (0.0, 0.0))
                if until > now:
                    self._remember(prefixes[at].digest, lifetime, now)
                    return at
        return None

    def _remember(self, digest: bytes, lifetime: float, now: float) -> None:
        until = max(now + lifetime, self._until.get(digest, (0.0, 0.0))[0])
        self._until[digest] = (until, lifetime)


def count_tokens(text: str) -> int:
    """How many tokens *text* is here."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN)


def _prefixes(body: dict[str, Any]) -> Iterator[_Prefix]:
    """The prefix that ends at each block, in order."""
    digest, tokens = hashlib.sha256(str(body["model"]).encode()), 0
    blocks = list(_blocks(body))
    last = max((at for at, (_, block) in enumerate(blocks) if block and _can_be_marked(block)), default=None)
    automatic = _lifetime(body)
    for at, (place, block) in enumerate(blocks):
        text = json.dumps([place, _unmarked(block)], sort_keys=True)
        digest.update(len(text).to_bytes(8, "big") + text.encode())
        if block is not None:
            tokens += count_tokens(text)
            mark = _mark(block) or (automatic if at == last else None)
            yield _Prefix(digest.digest(), tokens, mark)


def _blocks(body: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any] | None]]:
    """(where it stands, block); None: no block, but part of what follows."""
    system = body.get("system") or []
    for tool in body.get("tools") or []:
        yield "tool", tool
    for block in [{"type": "text", "text": system}] if isinstance(system, str) else system:
        yield "system", block
    yield [body.get("thinking"), body.get("tool_choice")], None
    for message in body["messages"]:
        for block in blocks_of(message):
            yield message["role"], block


def _can_be_marked(block: dict[str, Any]) -> bool:
    return block.get("type") not in _NEVER_MARKED and (block.get("type") != "text" or bool(block.get("text")))


def _mark(block: dict[str, Any]) -> str | None:
    inner = block.get("content")
    parts = [block, *(inner if isinstance(inner, list) else [])]
    return next(filter(None, (_lifetime(part) for part in reversed(parts) if isinstance(part, dict))), None)


def _lifetime(part: dict[str, Any]) -> str | None:
    control = part.get("cache_control")
    if not isinstance(control, dict):
        return None
    return "1h" if control.get("ttl") == "1h" else "5m"


def _unmarked(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if not isinstance(value, dict):
        return value
    kept = {key: inner for key, inner in value.items() if key != "cache_control"}
    if isinstance(kept.get("content"), list):
        kept["content"] = [_unmarked(inner) for inner in kept["content"]]
    return kept
