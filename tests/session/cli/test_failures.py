"""Whatever goes wrong: one line on stderr, the exit code, no traceback, nothing on stdout."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eventstore import BlockingLmdbEventLog, NewEvent
from session.events import MessageAppended
from session.storage.blocking import BlockingEventSessionStorage
from tests.session.cli.cli_kit import append

if TYPE_CHECKING:
    from tests.session.cli.cli_kit import Cli

ROOT = Path(__file__).parents[3]
REFOLD = [sys.executable, "-m", "session"]


def fails(cli: Cli, code: int, *arguments: str) -> str:
    """Run it, and return the line."""
    ran = cli(*arguments)
    assert ran.code == code, ran
    assert ran.out == ""
    assert ran.err.endswith("\n")
    assert ran.err.count("\n") == 1, ran.err
    assert ran.err.startswith("refold: ")
    assert "internal error" not in ran.err
    return ran.err


@pytest.mark.parametrize(
    ("code", "arguments", "said"),
    [
        (3, ["show", "sess_nowhere"], "Session not found: sess_nowhere"),
        (3, ["show", "sess_main@9999"], "place not found"),
        (3, ["show", "sess_main@turn:99"], "4 turns"),
        (3, ["diff", "sess_main", "sess_main@msg_none"], "never had this message"),
        (1, ["show", "sess_main@somewhere"], "a place is a version"),
        (1, ["show", "sess/main"], "invalid session id"),
        (1, ["show", "sess_fork"], "2 sessions begin with sess_fork: sess_fork_one, sess_fork_two"),
        (1, ["fork", "sess_main", "--id", "sess_other"], "exists already"),
        (1, ["fork", "sess_main", "--id", "sess_new", "--count", "2"], "--id names one session"),
        (1, ["fork", "sess_main", "--count", "100001"], "--count"),
        (1, ["verify", "--expect", "00"], "name it"),
        (1, ["verify", "sess_main", "--checkpoint", "/dev/null"], "name no session"),
        (1, ["verify", "sess_main", "--expect", "nonsense"], "not a hexadecimal digest"),
        (1, ["verify", "sess_main", "--expect", "00"], "64 hexadecimal digits"),
        (1, ["verify", "--checkpoint", "/nonexistent/file"], "no such file"),
        (1, ["verify", "--checkpoint", "/dev/null"], "not a checkpoint"),
        (1, ["cleanup", "--older-than", "soon"], "not an age"),
        (1, ["cleanup", "--older-than", "999999999w"], "more than"),
        (1, ["list", "--limit", "-1"], "--limit"),
        (1, ["list", "--limit", "99999999999999999999"], "--limit"),
        (1, ["log", "sess_main", "--limit", "99999999999999999999"], "--limit"),
        (1, ["tail", "sess_main", "-n", "99999999999999999999"], "--lines"),
        (1, ["show", "sess_main", "--last", "99999999999999999999"], "--last"),
        (1, ["search", "--limit", "99999999999999999999"], "--limit"),
        (1, ["search", "word", "--index", "/proc/nonexistent/index"], "the search index /proc/nonexistent/index: "),
        (1, ["show", "sess_main", "--at", ""], "a place is a version"),
        (1, ["list", "--store", ""], "an empty path names no store"),
        (1, ["list", "--store", "~nobody-of-this-name/store"], "no such home directory"),
        (1, ["import", ""], "an empty path"),
        (1, ["import", "~nobody-of-this-name/file"], "home directory"),
        (1, ["export", "-o", "~nobody-of-this-name/file"], "no such home directory"),
        (1, ["backup", ""], "names no directory"),
        (1, ["backup", "/"], "is there already"),
        (1, ["backup", "/proc/nonexistent/backup"], "/proc/nonexistent"),
        (1, ["no-such-command"], "No such command"),
        (1, ["shwo", "sess_main"], "Did you mean show?"),
        (1, ["list", "--no-such-option"], "No such option"),
        (1, ["show"], "Missing argument"),
        (3, ["schema", "nothing"], "no command nothing"),
    ],
)
def test_a_command_that_cannot_do_it_says_why_in_a_line(cli: Cli, code: int, arguments: list[str], said: str) -> None:
    assert said.lower() in fails(cli, code, *arguments).lower()


def test_a_beginning_that_only_one_id_has_is_enough(cli: Cli) -> None:
    assert cli.ok("show", "sess_m@turn:1").out == cli.ok("show", "sess_main@turn:1").out


def test_an_id_is_itself_even_if_others_begin_with_it(cli: Cli) -> None:
    cli.ok("fork", "sess_other@1", "--id", "sess_fork")
    assert cli.ok("show", "sess_fork").out == ""


def test_a_missing_store_is_not_found_and_not_made(cli: Cli, tmp_path: Path) -> None:
    cli.store = tmp_path / "nothing"
    assert f"there is no store at {cli.store}" in fails(cli, 3, "list")
    assert "there is no store" in fails(cli, 3, "verify")
    assert not cli.store.exists()


def test_an_import_of_nothing_makes_no_store(cli: Cli, tmp_path: Path) -> None:
    cli.store = tmp_path / "nothing"
    (tmp_path / "there.jsonl").write_text('{"id": "a", "messages": []}')
    for paths in (["nothere"], [""], [str(tmp_path / "there.jsonl"), "nothere"]):
        fails(cli, 1, "import", *paths)
        assert not cli.store.exists()


def test_a_path_that_is_a_file_or_another_directory_is_an_error(cli: Cli, tmp_path: Path) -> None:
    cli.store = tmp_path / "file"
    cli.store.write_text("text")
    assert "not a directory" in fails(cli, 1, "list")
    cli.store = tmp_path / "other"
    cli.store.mkdir()
    (cli.store / "letter.txt").write_text("text")
    assert "other files" in fails(cli, 1, "list")


def test_a_damaged_store_is_told_from_others_by_its_exit_code(cli: Cli) -> None:
    data = cli.store / "data.mdb"
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    fails(cli, 4, "list")
    data.write_bytes(b"\0" * 8192 + whole[8192:])
    fails(cli, 4, "list")


def test_a_session_that_cannot_be_read_hides_no_other(cli: Cli) -> None:
    cli.ok("fork", "sess_main", "--id", "sess_broken")
    with BlockingLmdbEventLog(cli.store) as log:
        log.append("sess_broken", [NewEvent("message_appended", b"\xc1 no msgpack")])
    for command in (["list"], ["tree", "sess_main"]):
        ran = cli(*command)
        assert ran.code == 4
        assert len(ran.rows) == (4 if command == ["list"] else 3)
        assert ran.err.startswith("refold: sess_broken cannot be read: ")
        assert ran.err.count("\n") == 1
    assert "unreadable event" in fails(cli, 4, "show", "sess_broken")
    stats = cli("stats")
    assert (stats.code, stats.rows[0][0]) == (4, "total")
    assert stats.err.startswith("refold: sess_broken cannot be read: ")


def test_verify_finds_a_byte_that_was_flipped(cli: Cli) -> None:
    data = cli.store / "data.mdb"
    raw = bytearray(data.read_bytes())
    place = raw.index(b"something else")
    raw[place] ^= 1
    data.write_bytes(raw)
    ran = cli("verify", "--json")
    assert ran.code == 2
    assert json.loads(ran.out)["problems"][0]["session"] == "sess_other"
    assert cli("verify", "sess_other").code == 2
    assert cli("verify", "sess_main").code == 0


def test_a_store_that_is_being_used_cannot_be_compacted(cli: Cli) -> None:
    code = (
        "import sys, eventstore; log = eventstore.BlockingLmdbEventLog(sys.argv[1]); print('open', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(cli.store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert "another process" in fails(cli, 4, "compact")
        other.communicate(b"\n")
    cli.ok("compact")


def test_a_store_whose_files_are_being_replaced_is_locked(cli: Cli) -> None:
    with (cli.store / "refold.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "replacing its files" in fails(cli, 4, "list")
    cli.ok("list")


@pytest.mark.parametrize("variable", ["REFOLD_STORE", None])
def test_the_store_is_named_by_an_option_or_the_environment(
    cli: Cli, variable: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from session.cli import run

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    shutil.copytree(cli.store, tmp_path / "home" / ".refold")
    if variable:
        monkeypatch.setenv(variable, str(cli.store))
    else:
        monkeypatch.delenv("REFOLD_STORE", raising=False)
    assert run(["list"]) == 0
    monkeypatch.setenv("REFOLD_STORE", str(tmp_path / "wrong"))
    assert run(["list"]) == 3
    assert run(["list", "--store", str(cli.store)]) == 0, "behind the command, too"
    assert run(["--store", str(cli.store), "list"]) == 0, "and before it"


def test_a_store_that_may_not_be_read_is_an_error(cli: Cli) -> None:
    """Root may read everything: the command runs as nobody, where this is root."""
    cli.store.chmod(0o700)
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    if not become:
        cli.store.chmod(0)
    done = subprocess.run(
        [*become, *REFOLD, "--store", str(cli.store), "list"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 1, done.stderr
    assert "permission denied" in done.stderr
    assert done.stderr.count("\n") == 1


# --- the world around: these run as processes -------------------------------------------------------------------------


def refold(cli: Cli, arguments: str, *, shell: str = "", before: str = "") -> subprocess.CompletedProcess[str]:
    command = f"{before} {sys.executable} -m session --store {cli.store} {arguments} {shell}"
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, cwd=ROOT)


def test_a_reader_that_leaves_early_is_no_reason_for_a_traceback(cli: Cli) -> None:
    with BlockingEventSessionStorage(cli.store) as store:
        append(store, "sess_long", *(MessageAppended.of({"role": "user", "content": "x" * 500}) for _ in range(2_000)))
    done = refold(cli, "log sess_long", shell="| head -1; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.count("\n") == 1


def test_a_full_disk_under_the_output_is_one_line(cli: Cli) -> None:
    done = refold(cli, "list", shell="> /dev/full")
    assert (done.returncode, done.stderr) == (1, "refold: cannot go on: no space left on device\n")


def started(cli: Cli, *arguments: str) -> subprocess.Popen[str]:
    """The command, running, with pipes to read what it says."""
    command = [*REFOLD, "--store", str(cli.store), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def test_ctrl_c_ends_tail_quietly_and_other_commands_with_a_line(cli: Cli) -> None:
    with started(cli, "tail", "-f", "sess_main", "-n", "1") as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        cli.ok("rename", "sess_main", "seen at once")
        assert "seen at once" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert first
    assert (process.returncode, out, err) == (0, "", "")


def test_an_interrupt_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BlockingEventSessionStorage, "summaries", interrupted)
    assert fails(cli, 1, "list") == "refold: interrupted\n"


def test_even_a_mistake_of_ours_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh\n\x1b[31m no")

    monkeypatch.setattr(BlockingEventSessionStorage, "summaries", broken)
    ran = cli("list")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert r"internal error: ZeroDivisionError: oh\n\x1b[31m no" in ran.err


def test_a_backup_into_another_store_is_no_damage_to_this_one(cli: Cli, tmp_path: Path) -> None:
    cli.ok("backup", str(tmp_path / "copy"))
    assert "is there already" in fails(cli, 1, "backup", str(tmp_path / "copy"))


def test_an_export_that_cannot_be_written_names_its_target(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    missing = str(tmp_path / "missing" / "file.jsonl")
    assert f"{missing}: no such file or directory" in fails(cli, 1, "export", "-o", missing)
    assert "ot a directory" in fails(cli, 1, "export", "--format", "folder", "-o", str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


def test_what_was_taken_in_before_the_disk_failed_is_told(cli: Cli, tmp_path: Path) -> None:
    lines = [json.dumps({"id": f"c-{n:03}", "messages": [{"role": "user", "content": "x" * 9_999}]}) for n in range(99)]
    (tmp_path / "many.jsonl").write_text("\n".join(["garbage", *lines]))
    cli.store = tmp_path / "limited"
    command = shlex.join([*REFOLD, "--store", str(cli.store), "import", str(tmp_path / "many.jsonl")])
    done = subprocess.run(
        ["sh", "-c", f"ulimit -f 800; exec {command}"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    told = done.stderr.splitlines()
    stored = len(cli.ok("list", "--limit", "0").rows)
    assert done.returncode == 1
    assert 0 < stored < len(lines)
    assert told[0].endswith(" new, and perhaps some more")  # several are under way at a time
    assert 0 < int(told[0].split()[1]) <= stored
    assert "skipped: 1 x no JSON" in told
    assert told[-1].startswith("refold: ")
    assert "internal error" not in told[-1]


def test_what_a_reader_who_left_did_not_see_is_imported_and_counted(cli: Cli, tmp_path: Path) -> None:
    lines = [json.dumps({"id": f"c-{n:03}", "messages": [{"role": "user", "content": "hi"}]}) for n in range(400)]
    (tmp_path / "many.jsonl").write_text("\n".join(lines))
    done = refold(cli, f"import {tmp_path}/many.jsonl", shell="| head -1; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stderr) == (0, "imported: 400 new\n")
    assert done.stdout.count("\n") == 1
    assert sum(row[0].startswith("c-") for row in cli.ok("list", "--limit", "0").rows) == 400


def forked(cli: Cli, told: str, ids: list[str], count: int) -> int:
    """How many forks *told* says were made: those with *ids*, all of them printed and there."""
    found = re.fullmatch(
        rf".*: ([0-9,]+) of {count:,} forks were made(, and perhaps some of the next 500, .*)?\n", told
    )
    assert found is not None, told
    there = {row[0] for row in cli.ok("list", "--limit", "0").rows}
    assert len(set(ids)) == int(found[1].replace(",", ""))
    assert set(ids) <= there
    return len(ids)


def test_forks_that_were_made_before_the_disk_was_full_are_printed_and_counted(cli: Cli) -> None:
    kilobytes = (cli.store / "data.mdb").stat().st_size // 1_024 + 1_000
    done = refold(cli, "fork sess_main --count 50000", before=f"ulimit -f {kilobytes};")
    assert done.returncode == 1
    assert done.stderr.startswith("refold: a fork failed (")
    assert 0 < forked(cli, done.stderr, done.stdout.split(), 50_000) < 50_000


def test_forks_that_were_made_before_ctrl_c_are_printed_and_counted(cli: Cli) -> None:
    with started(cli, "fork", "sess_main", "--count", "100000") as process:
        assert process.stdout is not None
        first = [process.stdout.readline().strip() for _ in range(500)]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith("refold: interrupted: ")
    assert forked(cli, err, [*first, *out.split()], 100_000) % 500 == 0


def test_who_leaves_while_forks_are_made_is_told_how_many_there_are(cli: Cli) -> None:
    done = refold(cli, "fork sess_main --count 100000", shell="| head -1; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stdout.count("\n")) == (1, 1)
    assert re.fullmatch(r"refold: [0-9,]+ of 100,000 forks were made\n", done.stderr)


def test_streams_that_are_closed_are_no_reason_to_fail(cli: Cli) -> None:
    command = shlex.join([*REFOLD, "--store", str(cli.store)])
    for line, code in (("list >&-", 0), ("list <&-", 0), ("show sess_nowhere 2>&-", 3), ("delete sess_main <&-", 1)):
        done = subprocess.run(["sh", "-c", f"{command} {line}"], capture_output=True, check=False, cwd=ROOT)
        assert done.returncode == code, (line, done)
        assert b"Traceback" not in done.stderr
    assert cli("show", "sess_main").code == 0


def test_without_arguments_it_helps(cli: Cli) -> None:
    del cli
    done = subprocess.run(REFOLD, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.startswith("Usage: refold")
    assert done.stderr == ""
