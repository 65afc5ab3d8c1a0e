"""Each command, as a program reads it: through a pipe, and as JSON that its schema describes."""

from __future__ import annotations

import io
import itertools
import json
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from session.cli._group import COMMANDS
from session.cli._options import Command
from session.cli.about import schema_of
from session.events import MessageAppended, UsageRecorded
from session.storage.blocking import BlockingEventSessionStorage
from tests.session.cli.cli_kit import append, turn

if TYPE_CHECKING:
    from pathlib import Path

    from session.summary import Summary
    from tests.session.cli.cli_kit import Cli

# What a test of every command runs: one that reads, or changes only its own copy of the store.
EVERY = {
    "list": ["list"],
    "show": ["show", "sess_main", "--last", "3"],
    "log": ["log", "sess_main"],
    "tail": ["tail", "sess_main", "-n", "2"],
    "stats": ["stats"],
    "cost": ["cost"],
    "fork": ["fork", "sess_main@turn:2", "--count", "2"],
    "tree": ["tree", "sess_fork_one"],
    "diff": ["diff", "sess_fork_one", "sess_main"],
    "resume": ["resume", "sess_main"],
    "verify": ["verify", "sess_main"],
    "lint": ["lint", "sess_main", "--sending"],
    "doctor": ["doctor"],
    "rename": ["rename", "sess_main", "renamed"],
    "tag": ["tag", "sess_main", "more"],
    "delete": ["delete", "sess_other", "--yes"],
    "cleanup": ["cleanup", "--older-than", "0s", "--yes"],
    "backup": ["backup", "{store}-copy"],
    "compact": ["compact"],
    "checkpoint": ["checkpoint"],
    "completion": ["completion", "zsh"],
    "schema": ["schema", "list"],
}
FOUND_SOMETHING = {"diff", "lint"}  # exit code 2
EXISTING = [name for name, (place, _) in COMMANDS.items() if find_spec(f"session.cli.{place.partition(':')[0]}")]


def arguments_of(name: str, cli: Cli) -> list[str]:
    return [argument.format(store=cli.store) for argument in EVERY[name]]


def lines_of(cli: Cli, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in cli(*arguments, "--json").out.splitlines()]


@pytest.mark.parametrize("name", EVERY)
def test_every_command_prints_json_that_its_schema_describes(name: str, cli: Cli) -> None:
    ran = cli("--json", *arguments_of(name, cli))
    assert ran.code == (2 if name in FOUND_SOMETHING else 0), ran
    assert ran.out.isascii()
    lines = [json.loads(line) for line in ran.out.splitlines()] if name != "completion" else []
    if isinstance(COMMANDS_LOADED[name], Command) and COMMANDS_LOADED[name].prints:
        schema = schema_of(name)
        jsonschema.Draft202012Validator.check_schema(schema)
        assert lines
        for line in lines:
            jsonschema.validate(line, schema)


@pytest.mark.parametrize("name", EVERY)
def test_every_command_prints_plain_rows_in_a_pipe(name: str, cli: Cli) -> None:
    ran = cli(*arguments_of(name, cli))
    assert ran.code == (2 if name in FOUND_SOMETHING else 0), ran
    assert "\x1b" not in ran.out
    assert ran.out.strip()


@pytest.mark.parametrize("name", EXISTING)
def test_every_help_text_has_an_example_that_calls_the_command(name: str, cli: Cli) -> None:
    ran = cli.ok(name, "--help")
    assert "Example" in ran.out
    assert f"refold {name}" in ran.out.split("Example")[1]


def test_a_schema_allows_nothing_that_it_does_not_describe() -> None:
    for name in EVERY:
        found = COMMANDS_LOADED[name]
        if isinstance(found, Command) and found.prints:
            schema = schema_of(name)
            main = schema["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
            assert main["additionalProperties"] is False, name
            assert main["description"], name


def test_the_help_of_the_group_names_every_command(cli: Cli) -> None:
    out = cli.ok("--help").out
    assert all(f"  {name} " in out for name in COMMANDS)
    assert "Example" in out


# --- looking ----------------------------------------------------------------------------------------------------------


def test_list_shows_the_newest_first_and_as_many_as_asked_for(cli: Cli) -> None:
    rows = cli.ok("list").rows
    assert [row[0] for row in rows] == ["sess_other", "sess_fork_two", "sess_fork_one", "sess_main"]
    assert rows[3][2:] == ["idle", "10", "0.004000", "claude-sonnet-5-5", "the main one"]
    assert [row[0] for row in cli.ok("list", "--limit", "1").rows] == ["sess_other"]
    assert [row[0] for row in cli.ok("list", "--tag", "good", "--limit", "2").rows] == [
        "sess_fork_two",
        "sess_fork_one",
    ]


def test_a_list_of_all_goes_on_behind_a_page(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("session.cli.looking.PAGE", 2)
    assert len(cli.ok("list", "--limit", "0").rows) == 4
    assert len(cli.ok("list", "--limit", "3").rows) == 3


def test_show_prints_the_messages_as_they_were_at_a_place(cli: Cli) -> None:
    assert cli.ok("show", "sess_main@turn:1").rows == [["0", "user", "ask 1"], ["1", "assistant", "answer 1"]]
    assert cli.ok("show", "sess_main", "--at", "turn:1").out == cli.ok("show", "sess_main@turn:1").out
    assert cli.ok("show", "sess_main", "--last", "2").rows == [["8", "user", "ask 4"], ["9", "assistant", "answer 4"]]
    assert cli.ok("show", "sess_main@turn:3", "--last", "2").rows[0] == ["6", "user", "[tool_result] ok"]


def test_show_raw_prints_the_exact_bytes(cli: Cli) -> None:
    exact = b'{"content": "\\ud800 1.10",  "role":"user"}'
    with BlockingEventSessionStorage(cli.store) as store:
        append(store, "sess_exact", MessageAppended.of(exact))
    assert cli.ok("show", "sess_exact", "--raw").out.encode() == exact + b"\n"


def test_log_shows_versions_times_and_digests(cli: Cli) -> None:
    rows = cli.ok("log", "sess_main").rows
    assert [row[0] for row in rows] == [str(n) for n in range(1, len(rows) + 1)]
    with BlockingEventSessionStorage(cli.store) as store:
        assert [row[2] for row in rows] == [event.digest.hex() for event in store.events("sess_main")]
    assert rows[0][3] == "session_created"
    assert cli.ok("log", "sess_main@-2", "--newest", "--limit", "1").rows == [rows[-3]]
    assert cli.ok("log", "sess_main", "--after", "5", "--limit", "2").rows == rows[5:7]


def test_tail_shows_the_newest_events_oldest_first(cli: Cli) -> None:
    assert cli.ok("tail", "sess_main", "-n", "3").rows == cli.ok("log", "sess_main").rows[-3:]
    assert cli.ok("tail", "sess_main", "-n", "0").out == ""


# --- forking ----------------------------------------------------------------------------------------------------------


def test_fork_prints_the_id_of_what_it_made(cli: Cli) -> None:
    (made,) = lines_of(cli, "fork", "sess_main@turn:2", "--id", "sess_new", "--reason", "why not")
    assert made["id"] == "sess_new"
    assert cli.ok("show", "sess_new").out == cli.ok("show", "sess_main@turn:2").out
    assert "why not" in cli.ok("tail", "sess_new", "-n", "1").out
    assert len(set(cli.ok("fork", "sess_main", "--count", "5").out.split())) == 5


def test_tree_shows_the_whole_family_from_any_of_its_members(cli: Cli) -> None:
    cli.ok("fork", "sess_fork_one", "--id", "sess_grandchild")
    rows = cli.ok("tree", "sess_grandchild").rows
    assert [(row[0], row[1]) for row in rows] == [
        ("0", "sess_main"),
        ("1", "sess_fork_one"),
        ("2", "sess_grandchild"),
        ("1", "sess_fork_two"),
    ]
    assert rows[1][4] == "0.001000", "own cost: what it has from its parent is not counted"


def test_forks_of_a_deleted_parent_are_a_tree_of_their_own(cli: Cli) -> None:
    cli.ok("fork", "sess_fork_one", "--id", "sess_grandchild")
    cli.ok("delete", "sess_fork_one", "--yes")
    assert [row[1] for row in cli.ok("tree", "sess_grandchild").rows] == ["sess_grandchild"]


def test_diff_tells_where_two_sessions_part_and_what_each_added(cli: Cli) -> None:
    (found,) = lines_of(cli, "diff", "sess_fork_one", "sess_main")
    assert found["common_messages"] == 2
    with BlockingEventSessionStorage(cli.store) as store:
        assert found["shared_events"] == store.version_at("sess_main", "turn:1")
    assert found["difference"] == {
        "index": 2,
        "kind": "changed",
        "pointer": "/content",
        "a": '"another way 2"',
        "b": '"ask 2"',
    }
    assert found["a"]["added"][0]["content"] == "another way 2"
    assert (found["a"]["added_cost_usd"], found["b"]["added_cost_usd"]) == (0.001, 0.003)


def test_diff_calls_unpriced_since_only_what_came_since(cli: Cli) -> None:
    with BlockingEventSessionStorage(cli.store) as store:
        append(store, "sess_old", UsageRecorded(b'{"input_tokens":7}', model="nobody-knows"))
        store.fork("sess_old", "sess_new")
        append(store, "sess_new", *turn(1))
    (found,) = lines_of(cli, "diff", "sess_old", "sess_new")
    assert [(found[side]["unpriced"], found[side]["added_unpriced"]) for side in "ab"] == [(1, 0), (1, 0)]
    jsonschema.validate(found, schema_of("diff"))
    told = cli("diff", "sess_old", "sess_new").out
    assert "unpriced, $0.0000 of it since" in told
    assert "≥$0.0010, $0.0010 of it since" in told


def test_diff_of_the_same_finds_no_difference(cli: Cli) -> None:
    assert cli("diff", "sess_main", "sess_main").code == 0
    assert cli("diff", "sess_main@turn:1", "sess_fork_one@turn:1").code == 0
    assert cli("diff", "sess_main", "sess_other").code == 2


# --- spending ---------------------------------------------------------------------------------------------------------


def test_the_cost_of_the_store_counts_each_response_once(cli: Cli) -> None:
    rows = {(row[0], row[1]): row[2] for row in cli.ok("cost").rows}
    assert rows["total", ""] == "0.006000", "four, one in the fork, one in the other session"
    assert rows["session", "sess_fork_one"] == "0.001000"
    assert rows["model", "claude-sonnet-5-5"] == "0.006000"


def test_the_stats_of_a_session_count_its_whole_history(cli: Cli) -> None:
    lines = lines_of(cli, "stats", "sess_fork_one", "--by", "tool")
    assert {line["by"] for line in lines} == {"total", "tool"}
    assert lines[0]["responses"] == 2
    assert lines[0]["cache_hit_share"] == 0.75
    tools = {line["key"]: line for line in lines_of(cli, "stats", "sess_main", "--by", "tool")}
    assert (tools["bash"]["calls"], tools["bash"]["cost_usd"]) == (1, 0.001)


# --- checking ---------------------------------------------------------------------------------------------------------


def test_verify_looks_at_the_whole_store(cli: Cli) -> None:
    ran = cli.ok("verify", "--json")
    verdict = json.loads(ran.out)
    assert (verdict["ok"], verdict["sessions"], verdict["problems"]) == (True, 4, [])
    assert ran.err == "", "progress is drawn on terminals only"


def test_a_digest_that_was_kept_proves_that_nothing_was_changed(cli: Cli) -> None:
    (verdict,) = lines_of(cli, "verify", "sess_main")
    assert cli("verify", "sess_main", "--expect", verdict["digest"]).code == 0
    ran = cli("verify", "sess_main", "--expect", "00" * 32)
    assert ran.code == 2
    assert "altered" in ran.out


def test_a_checkpoint_shows_a_store_that_lost_a_session(cli: Cli, tmp_path: Path) -> None:
    cli.ok("backup", str(tmp_path / "old"))
    cli.ok("fork", "sess_main", "--id", "sess_later")
    kept = tmp_path / "kept.json"
    kept.write_text(cli.ok("checkpoint").out)
    assert cli("verify", "--checkpoint", str(kept)).code == 0
    cli.store = tmp_path / "old"
    ran = cli("verify", "--checkpoint", str(kept), "--json")
    assert ran.code == 2
    assert "sess_later" in ran.out


def test_lint_and_resume_find_and_repair_a_tool_call_without_a_result(cli: Cli) -> None:
    cli.ok("fork", "sess_main@-4", "--id", "sess_cut")  # the fourth turn is gone
    cli.ok("fork", "sess_main@msg_003", "--id", "sess_orphan")
    assert cli("lint", "sess_cut").code == 0
    (problem,) = lines_of(cli, "lint", "sess_orphan")
    assert problem["code"] == "unanswered_tool_use"
    body = json.loads(cli.ok("resume", "sess_orphan").out)
    assert body["model"] == "claude-sonnet-5-5"
    assert body["messages"][-1]["content"][0]["tool_use_id"] == "toolu_3_0"
    (shown,) = lines_of(cli, "resume", "sess_orphan")
    assert json.loads(shown["body"]) == body
    assert (shown["added"], shown["pending"]) == (["toolu_3_0"], "tool_use")


def test_a_request_that_needs_no_repair_has_the_exact_bytes(cli: Cli) -> None:
    with BlockingEventSessionStorage(cli.store) as store:
        raw = store.state_at("sess_other", "-0").messages.raw
    assert b",".join(raw).decode() in cli.ok("resume", "sess_other").out


# --- keeping ----------------------------------------------------------------------------------------------------------


def test_titles_and_tags_are_changed(cli: Cli) -> None:
    cli.ok("rename", "sess_main", "a new name")
    assert cli.ok("tag", "sess_main", "b", "a", "b", "--remove", "good").rows == [["sess_main", "a new name", "b", "a"]]
    version = lines_of(cli, "tag", "sess_main", "b")[0]["version"]
    assert lines_of(cli, "tag", "sess_main")[0]["version"] == version, "nothing to change, nothing written"


@pytest.mark.parametrize(("meddlings", "code"), [(1, 0), (10**9, 1)])
def test_no_tag_is_lost_to_another_that_comes_in_between(
    meddlings: int, code: int, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, left = BlockingEventSessionStorage.summary, itertools.count(meddlings, -1)

    def read_and_meddle(store: BlockingEventSessionStorage, session: str) -> Summary:
        found = read(store, session)
        if (number := next(left)) > 0:
            store.update_metadata(session, tags=[*found.tags, f"theirs-{number}"])
        return found

    monkeypatch.setattr(BlockingEventSessionStorage, "summary", read_and_meddle)
    ran = cli("tag", "sess_main", "ours", "--remove", "good")
    assert ran.code == code
    if code:
        assert ran.err == "refold: sess_main is being written to all the time: its tags were not changed, try again\n"
    else:
        assert ran.rows == [["sess_main", "the main one", "theirs-1", "ours"]]


def test_delete_needs_a_yes_where_nobody_can_be_asked(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    ran = cli("delete", "sess_other")
    assert (ran.code, ran.out) == (1, "")
    assert "--yes" in ran.err
    assert cli.ok("delete", "sess_other", "sess_fork_two", "-y").rows == [["sess_other"], ["sess_fork_two"]]
    assert cli("show", "sess_other").code == 3


def test_cleanup_deletes_what_was_idle_for_long_and_says_so_before_if_asked(cli: Cli) -> None:
    assert cli.ok("cleanup", "--older-than", "30d", "--yes").out == ""
    wanted = cli.ok("cleanup", "--older-than", "0s", "--dry-run").out
    assert len(wanted.split()) == 4
    assert cli.ok("cleanup", "--older-than", "0s", "--yes").out == wanted
    assert cli.ok("list").out == ""


def test_a_backup_is_a_store(cli: Cli, tmp_path: Path) -> None:
    listed = cli.ok("list").out
    ran = cli.ok("backup", str(tmp_path / "copy"))
    assert ran.rows[0][0] == str(tmp_path / "copy")
    cli.store = tmp_path / "copy"
    assert cli.ok("list").out == listed
    assert cli("backup", str(tmp_path / "copy")).code == 1, "it exists"


def test_compact_gives_room_back(cli: Cli) -> None:
    with BlockingEventSessionStorage(cli.store) as store:
        append(store, "sess_big", MessageAppended.of({"role": "user", "content": "x" * 2_000_000}))
    cli.ok("delete", "sess_big", "--yes")
    before, after = map(int, cli.ok("compact").rows[0])
    assert before > 2_000_000 > after


# --- about ------------------------------------------------------------------------------------------------------------


def test_doctor_finds_a_store_that_is_missing_or_cannot_be_opened(cli: Cli, tmp_path: Path) -> None:
    assert {line["state"] for line in lines_of(cli, "doctor", "--full")} <= {"ok", "note"}
    cli.store = tmp_path / "nothing"
    assert cli("doctor").code == 0
    assert not cli.store.exists(), "to look is not to make"
    cli.store.write_text("no directory")
    ran = cli("doctor")
    assert ran.code == 2
    assert "problem" in ran.out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(shell: str, cli: Cli) -> None:
    assert "_REFOLD_COMPLETE" in cli.ok("completion", shell).out


def test_commands_and_ids_are_completed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def completed(words: str) -> set[str]:
        monkeypatch.setenv("_REFOLD_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
        monkeypatch.setenv("REFOLD_STORE", str(cli.store))
        found = cli().out.split()
        return {one.partition(",")[2] for one in found}

    assert completed("refold ver") == {"verify"}
    assert completed("refold show sess_f") == {"sess_fork_one", "sess_fork_two"}
    assert "--raw" in completed("refold show --r")


def test_schema_lists_the_commands_that_have_one(cli: Cli) -> None:
    named = set(cli.ok("schema").out.split())
    assert {"list", "show", "log", "diff", "verify", "stats"} <= named
    assert cli("schema", "completion").code == 3


def _loaded() -> dict[str, Any]:
    import click

    from session.cli._group import refold

    return {name: refold.get_command(click.Context(refold), name) for name in EVERY}


COMMANDS_LOADED = _loaded()
