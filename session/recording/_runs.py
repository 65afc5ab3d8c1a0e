"""Which sessions belong to one name: its first one, ROOT, and ROOT.2, ROOT.3, ...; and which calls to one run. Pure.

Several runs of one name share the sessions, or fork from them. The id of a call says which run made it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable


_CALL: Final = re.compile(r"(call_[0-9a-f]{16})[0-9a-f]{8,}")


def call_id(run: bytes, number: int) -> str:
    """The id of a run's call: *run* are 8 bytes of its own."""
    return f"call_{run.hex()}{number:08x}"


def run_id(request_id: str) -> str:
    """What the ids of all calls of that run begin with; "" if no recorder made it."""
    found = _CALL.fullmatch(request_id)
    return found[1] if found else ""


def run_of(session_ids: Iterable[str], session_id: str) -> list[str]:
    """Those of *session_ids* that were recorded under the name of *session_id*, in the order in which they began."""
    known = set(session_ids)
    root = _root(session_id, known)
    numbered = [(_number(name, root), name) for name in known if _number(name, root)]
    return [name for _, name in sorted(numbered)]


def _root(session_id: str, known: set[str]) -> str:
    stem, dot, number = session_id.rpartition(".")
    return stem if dot and number.isdigit() and stem in known else session_id


def _number(name: str, root: str) -> int:
    """The place of *name* in the run of *root*, from 1; 0: in none."""
    if name == root:
        return 1
    number = name.removeprefix(f"{root}.") if name.startswith(f"{root}.") else ""
    return int(number) if number.isascii() and number.isdigit() else 0
