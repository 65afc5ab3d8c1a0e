"""`refold verify` and `refold checkpoint`."""

from __future__ import annotations

import json
import sys
from typing import IO, TYPE_CHECKING

import click
import msgspec

from session.cli._address import SESSION, find_session
from session.cli._failures import CommandError, Exit
from session.cli._options import command
from session.cli._output import output, progress
from session.cli._store import missing_store, open_store, store_path

if TYPE_CHECKING:
    from pathlib import Path

    from eventstore.verify import Report
    from session.cli._output import Output
    from session.storage._log import Checkpoint


class FoundProblem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that is not as it must be; `session` is null and `version` 0 where none can be named."""

    kind: str
    reason: str
    session: str | None
    version: int


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether the record is whole (`ok`), what was looked at, and every problem. `digest` is the hexadecimal digest of
    the newest event, if one session was asked for: keep it elsewhere, for `refold verify SESSION --expect DIGEST`.
    """

    ok: bool
    session: str | None
    events: int
    sessions: int
    digest: str
    problems: list[FoundProblem]


@command(
    "verify",
    example="refold verify\nrefold verify --checkpoint kept.json\nrefold verify sess_4f --expect 8bcfc76b...",
    prints=Verdict,
)
@click.argument("session", type=SESSION, required=False)
@click.option("--checkpoint", metavar="FILE", type=click.File("rb"), help="What `refold checkpoint` printed before.")
@click.option("--expect", metavar="DIGEST", help="A digest of the session that was kept elsewhere.")
def verify(session: str | None, checkpoint: IO[bytes] | None, expect: str | None) -> int:
    """Is the record whole and untouched? Of the whole store, or of one session. Exit code 2 if not.

    All digests are recomputed. With --checkpoint: nothing up to it was changed, cut off, or removed without a
    tombstone. With --expect: nothing in the session up to the event with that digest was changed.
    """
    if expect is not None and session is None:
        raise click.UsageError("--expect is the digest of one session: name it")
    if checkpoint is not None and session is not None:
        raise click.UsageError("--checkpoint is about the whole store: name no session")
    if session is not None:
        found = _verify_session(session, _digest(expect))
    else:
        found = _verify_store(store_path(), None if checkpoint is None else _read_checkpoint(checkpoint))
    _print(output(), found)
    return Exit.OK if found.ok else Exit.FOUND


@command("checkpoint", example="refold checkpoint > kept.json; refold verify --checkpoint kept.json")
def checkpoint() -> None:
    """Print the digest of every session's newest event, as JSON: to be kept elsewhere, for `refold verify`.

    The digests are a chain without a key: who can write the store can rewrite it, and only what was kept elsewhere
    shows it.
    """
    with open_store() as store:
        text = store.log.checkpoint().to_json()
    sys.stdout.write(json.dumps(json.loads(text)) + "\n")  # in ASCII


def _verify_session(session: str, expect: bytes | None) -> Verdict:
    from session.errors import SessionAlteredError  # noqa: PLC0415 - with the store
    from session.storage._log import CorruptEventError  # noqa: PLC0415

    with open_store() as store:
        session_id = find_session(store, session)
        try:
            found = store.verify(session_id, expect=expect)
        except SessionAlteredError as error:
            problem = FoundProblem("digest", str(error), session_id, error.version)
            return Verdict(False, session_id, error.version, 1, "", [problem])  # noqa: FBT003 - the field `ok`
        except CorruptEventError as error:
            problem = FoundProblem("record", str(error), session_id, error.version)
            return Verdict(False, session_id, 0, 1, "", [problem])  # noqa: FBT003
    return Verdict(True, session_id, found.version, 1, found.digest.hex(), [])  # noqa: FBT003


def _verify_store(path: Path, kept: Checkpoint | None) -> Verdict:
    from session.storage._log import LogNotFoundError, check_log  # noqa: PLC0415 - with the store

    try:
        with progress("Verifying") as step:
            report = check_log(path, checkpoint=kept, progress=step)
    except LogNotFoundError as error:
        raise missing_store(path) from error
    return _verdict(report)


def _verdict(report: Report) -> Verdict:
    problems = [FoundProblem(one.kind, one.reason, one.stream, one.version) for one in report.problems]
    return Verdict(not problems, None, report.events, report.streams, "", problems)


def _print(out: Output, found: Verdict) -> None:
    if out.json:
        out.object(found)
        return
    if out.terminal:
        for problem in found.problems:
            place = "" if problem.session is None else f" {problem.session}@{problem.version}"
            out.line(f"{problem.kind}{place}: {problem.reason}", style="red")
        out.line(_summary(found), style="bold green" if found.ok else "bold red")
        return
    for problem in found.problems:
        out.cells("problem", problem.kind, problem.session, problem.version or None, problem.reason)
    out.cells("ok" if found.ok else "altered or damaged", found.events, found.sessions, found.digest)


def _summary(found: Verdict) -> str:
    looked = f"{found.events:,} events" if found.session else f"{found.events:,} events, {found.sessions:,} sessions"
    if not found.ok:
        return f"{len(found.problems)} problems in {looked}"
    return f"whole and untouched: {looked}{f', digest {found.digest}' if found.digest else ''}"


def _digest(text: str | None) -> bytes | None:
    from session.storage.events import DIGEST_BYTES  # noqa: PLC0415 - with the store

    try:
        digest = None if text is None else bytes.fromhex(text)
    except ValueError as error:
        raise CommandError(f"--expect: not a hexadecimal digest: {text}") from error
    if digest is not None and len(digest) != DIGEST_BYTES:
        raise CommandError(f"--expect: a digest has {2 * DIGEST_BYTES} hexadecimal digits, and not {2 * len(digest)}")
    return digest


def _read_checkpoint(file: IO[bytes]) -> Checkpoint:
    from session.storage._log import Checkpoint  # noqa: PLC0415 - with the store

    try:
        return Checkpoint.from_json(file.read())
    except ValueError as error:
        raise CommandError(f"{file.name}: not a checkpoint: {error}") from error
