"""What an import did: what was taken in, what was not, and why."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, assert_never

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

Reason: TypeAlias = Literal[
    "not_json",
    "not_a_conversation",
    "too_long",
    "too_deep",
    "bad_id",
    "taken",
    "deleted",
    "altered",
    "incomplete",
    "unknown_format",
    "newer_format",
    "outside",
    "not_a_file",
    "unreadable",
]
"""Why something was not taken in: see `REASONS`."""

REASONS: Final[dict[Reason, str]] = {
    "not_json": "no JSON",
    "not_a_conversation": "JSON, but no conversation",
    "too_long": "over the limit in bytes",
    "too_deep": "nested beyond the limit",
    "bad_id": "its id cannot name a session",
    "taken": "the store has another conversation under this id",
    "deleted": "a session of this id was deleted from the store, and ids are never used again",
    "altered": "it was changed: it does not match its own digests, or does not continue what the store has",
    "incomplete": "the file ends too early: an export that was cut",
    "unknown_format": "in no format that is known here",
    "newer_format": "written by a newer version",
    "outside": "a symbolic link that leads out of the folder",
    "not_a_file": "a pipe, a socket, a device or a broken link",
    "unreadable": "the system does not let it be read",
}


class Imported(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="imported"):
    """A session is in the store, at *version*, as *source* has it.

    *outcome*: "new"; "extended" (the store had the beginning); "unchanged" (the store had all of it). *noticed* counts
    what was left out of it or taken otherwise than it stands there, by the importer's own names.
    """

    session_id: str
    outcome: Literal["new", "extended", "unchanged"]
    source: str
    version: int
    parent_id: str | None = None
    noticed: dict[str, int] = {}


class Skipped(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="skipped"):
    """Something was not taken in. *line* counts from 1; 0: *source* as a whole. *detail* may show hostile text."""

    source: str
    reason: Reason
    line: int = 0
    detail: str = ""


Outcome: TypeAlias = Imported | Skipped
"""What became of one thing that an importer found."""


class RefusedError(Exception):
    """Raised within an importer about one thing that cannot be taken in; it becomes a `Skipped`."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason: Final[Reason] = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{REASONS[self.reason]}{': ' if self.detail else ''}{self.detail}"

    def at(self, source: str, line: int = 0) -> Skipped:
        """The outcome of what stands there."""
        return Skipped(source, self.reason, line, self.detail)


class Report:
    """Outcomes, counted. It keeps the first few of what was skipped, so its size is bounded."""

    KEPT: Final = 20

    def __init__(self, outcomes: Iterable[Outcome] = ()) -> None:
        self.imported: Counter[str] = Counter()
        self.skipped: Counter[Reason] = Counter()
        self.noticed: Counter[str] = Counter()
        self.first_skipped: list[Skipped] = []
        for outcome in outcomes:
            self.add(outcome)

    def __repr__(self) -> str:
        return f"<Report: {dict(self.imported)}, skipped {dict(self.skipped)}>"

    def add(self, outcome: Outcome) -> None:
        """Count *outcome*."""
        match outcome:
            case Imported():
                self.imported[outcome.outcome] += 1
                self.noticed.update(outcome.noticed)
            case Skipped():
                self.skipped[outcome.reason] += 1
                if len(self.first_skipped) < self.KEPT:
                    self.first_skipped.append(outcome)
            case _:
                assert_never(outcome)

    @property
    def whole(self) -> bool:
        """Whether nothing was skipped."""
        return not self.skipped
