"""Preserved thinking as the API checks it: a thinking block is good only after exactly what it was produced after.

By https://platform.claude.com/docs/en/build-with-claude/preserved-thinking (looked up 2026-11-22):

1. The prefix of a block is the top-level `system`, the set of `tools` (deferred ones aside) and every block before it.
   Everything else of a request, and `cache_control` anywhere, is not part of it.
2. Earlier thinking blocks are not in the prefix, but each block records which one came before it: they may be left out
   from the start of the history or from its end, not from the middle.
3. The prefix starts anew at the newest compaction block.
4. Messages of one role in a row are one turn, and a string is short for one text block: how a prefix is cut into
   messages does not matter. [Not stated on the page; it is how the API reads requests.]
5. With `thinking.block_binding.prefix_mismatch_behavior` "drop_block" nothing is refused.

Only the standard library; nothing of the rest of this project.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from session.testing._message_rules import blocks_of
from session.testing.rules import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterator

_THINKING: Final = ("thinking", "redacted_thinking")
_INVALID: Final = "Invalid `signature` in `thinking` block"
_INVALID_DATA: Final = "Invalid `data` in `redacted_thinking` block"
_BOUND: Final = (
    f"{_INVALID}. The block is bound to a different conversation. Remove the block, or set "
    '`thinking.block_binding.prefix_mismatch_behavior` to "drop_block".'
)
_MODIFIED: Final = (
    "`thinking` or `redacted_thinking` blocks in the latest assistant message cannot be modified. These blocks must "
    "remain as they were in the original response."
)


@dataclass(frozen=True)
class _Known:
    prefix: bytes
    block: str
    before: str | None


class ThinkingLedger:
    """Every thinking block that a scripted server produced, and what it was produced after."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def __repr__(self) -> str:
        return f"<ThinkingLedger: {len(self._known)} blocks>"

    def record(self, body: dict[str, Any], content: list[dict[str, Any]]) -> None:
        """The server answered the request *body* with *content*: register its thinking blocks."""
        answered = {**body, "messages": [*body["messages"], {"role": "assistant", "content": content}]}
        before: str | None = None
        for number, _, block, prefix in _thinking_blocks(answered):
            if number == len(body["messages"]):
                self.register(prefix, block, before=before)
            before = _seal(block)

    def register(self, prefix_digest: bytes, block: dict[str, Any], *, before: str | None = None) -> None:
        """*block* was produced after the prefix of this digest, and after the thinking block with the seal *before*."""
        self._known[_seal(block)] = _Known(prefix_digest, _canonical(block), before)

    def check(self, body: dict[str, Any]) -> ApiError | None:
        """The error the API gives to *body* for its thinking blocks; None: all of them are good where they stand.

        *body* is one that `check_request` takes.
        """
        binding = (body.get("thinking") or {}).get("block_binding") or {}
        drops = binding.get("prefix_mismatch_behavior") == "drop_block"
        latest = max((n for n, message in enumerate(body["messages"]) if message["role"] == "assistant"), default=-1)
        before: str | None = None
        for number, index, block, prefix in _thinking_blocks(body):
            text = self._fault(block, prefix, before, latest=number == latest)
            if text and not (drops and text == _BOUND):
                return ApiError(f"messages.{number}.content.{index}: {text}")
            before = _seal(block)
        return None

    def _fault(self, block: dict[str, Any], prefix: bytes, before: str | None, *, latest: bool) -> str | None:
        known = self._known.get(_seal(block))
        if known is None:
            return _INVALID if block["type"] == "thinking" else _INVALID_DATA
        if known.block != _canonical(block):
            return _MODIFIED if latest else _INVALID
        if known.prefix != prefix or (before is not None and before != known.before):
            return _BOUND
        return None


def prefix_digest(body: dict[str, Any]) -> bytes:
    """What a thinking block that opens the answer to *body* is bound to."""
    answered = {**body, "messages": [*body["messages"], {"role": "assistant", "content": [{"type": _THINKING[0]}]}]}
    return [prefix for _, _, _, prefix in _thinking_blocks(answered)][-1]


def _thinking_blocks(body: dict[str, Any]) -> Iterator[tuple[int, int, dict[str, Any], bytes]]:
    """(message, index, block, digest of what stands before it) of every thinking block, in one pass."""
    stands_around = _stands_around(body)
    digest = hashlib.sha256(stands_around)
    role = ""
    for number, message in enumerate(body["messages"]):
        for index, block in enumerate(blocks_of(message)):
            if block["type"] in _THINKING:
                prefix = digest.copy()
                prefix.update(b"" if message["role"] == role else b"\x00" + message["role"].encode())
                yield number, index, block, prefix.digest()
                continue
            if block["type"] == "compaction":
                digest, role = hashlib.sha256(stands_around), ""
            if message["role"] != role:
                role = message["role"]
                digest.update(b"\x00" + role.encode())
            digest.update(b"\x01" + _canonical(block).encode())


def _stands_around(body: dict[str, Any]) -> bytes:
    system = body.get("system") or []
    prompt = [{"type": "text", "text": system}] if isinstance(system, str) else system
    tools = sorted(_canonical(tool) for tool in body.get("tools") or [] if not tool.get("defer_loading"))
    return json.dumps([[_canonical(block) for block in prompt], tools]).encode()


def _seal(block: dict[str, Any]) -> str:
    """What tells one thinking block from another: its signature, or its encrypted data."""
    return str(block.get("signature") if block["type"] == "thinking" else block.get("data"))


def _canonical(block: dict[str, Any]) -> str:
    return json.dumps(_without_cache_control(block), sort_keys=True, separators=(",", ":"))


def _without_cache_control(value: dict[str, Any]) -> dict[str, Any]:
    kept = {key: inner for key, inner in value.items() if key != "cache_control"}
    if isinstance(kept.get("content"), list):
        kept["content"] = [
            _without_cache_control(inner) if isinstance(inner, dict) else inner for inner in kept["content"]
        ]
    return kept
