"""Which sessions belong to one run: its first one, ROOT, and ROOT.2, ROOT.3, ... Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def run_of(session_ids: Iterable[str], session_id: str) -> list[str]:
    """Those of *session_ids* that were recorded in the same run as *session_id*, in the order in which they began."""
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
