"""The map of the house: what there is, from the bottom up, and who may import whom.

Arrows are what a module imports when it runs, in functions too; what only the type checker reads is no arrow.
"""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[1]

# The log. Each module may import those of the floors below its own.
EVENTSTORE = [
    {
        "errors": "everything that is raised on purpose",
        "_layout": "keys and record bytes of format 1; pure",
        "_chain": "the digest chain; pure",
        "_gate": "who may pass while the map of the file changes",
    },
    {
        "log": "the protocol, the value types, the promises P1..P8",
        "_files": "what is at a path, who holds it, how a new log comes to be",
    },
    {
        "memory": "the log in memory: the oracle, which shares no helper with the one on disk",
        "_lmdb": "the environment: open, grow, guard, transactions; the only one that knows lmdb",
        "_lineage": "walking a lineage: jump pointers, spines",
        "_listing": "which streams were active last",
        "verify": "is a log whole and untouched? in a child process",
    },
    {
        "_erasure": "erasing what no living stream reaches, in bounded batches",
        "_reader": "what is read inside a transaction",
    },
    {
        "_restore": "from exported records to what has to be written; pure",
        "_scan_tables": "the second half of a verification: the tables",
    },
    {
        "_ledger": "what is written inside a transaction",
        "_scan": "the first half of a verification, in the child process: the log",
    },
    {"_requests": "checked arguments, hashed in the caller's thread"},
    {"_writer": "group commit: one thread, one transaction, one flush for all who wait"},
    {"_engine": "one open log per file and process"},
    {"blocking_lmdb_log": "the log on LMDB for scripts and threads"},
    {"lmdb_log": "the log on LMDB for event loops"},
    {"": "what users import"},
    {"testing": "contract and state machine for any engine; public"},
]

# Conversations. Each room may import from the rooms named behind it, and from itself; planned rooms may still be empty.
SESSION = {
    "starting": (["_starting"], []),  # loaded before all else: Ctrl-C while the command is being loaded
    "core": (  # pure: from values to values
        [
            "errors", "events", "messages", "jsontext", "codec", "fold", "turns", "state", "places", "usage", "pricing",
            "summary", "recent", "compare", "family", "spending", "saving", "metadata", "lint", "_finders",
            "_block_faults", "_history", "_doubt", "_finishing", "request", "response",
        ],
        [],
    ),
    "sdk": (["sdk"], ["core"]),  # the seam to the anthropic SDK
    "tools": (["tools", "_tool_results"], ["core", "sdk"]),
    "storage": (["storage"], ["core"]),  # five kinds; one of them on the log
    "live": (["live"], ["core", "sdk", "tools", "storage"]),  # sessions that talk
    "recording": (["recording", "replay", "importers"], ["core", "sdk", "storage"]),
    "transfer": (["transfer"], ["core", "storage"]),  # conversations from elsewhere, and to elsewhere
    "claude_code": (["claude_code"], ["core", "storage", "transfer"]),  # its transcripts, in and out
    "search": (["search"], ["core", "storage"]),  # full text beside the store
    "pages": (["pages"], ["core", "storage"]),  # sessions to read: Markdown, HTML
    "facade": ([""], ["starting", "core", "tools", "storage", "live", "recording"]),  # what users import
    "cli": (
        ["cli", "__main__"],
        [
            "starting", "core", "sdk", "tools", "storage", "live", "recording", "facade", "search", "pages", "transfer",
            "claude_code", "demo",
        ],
    ),
    "demo": (["demo"], ["core", "storage", "live", "transfer", "testing"]),  # the whole idea at work
    "testing": (["testing"], ["core", "storage"]),  # public: contract, scripted API, rules
}  # fmt: skip

# Who may touch what is not ours. Whatever is named here is imported nowhere else, and only when it runs there.
SEAMS = {
    "lmdb": {"eventstore._lmdb"},
    "eventstore": {"session.storage._log"},
    "anthropic": {
        "session.sdk", "session.live._context",
        "session.recording._recorder", "session.replay._replayer",
        "session.testing.api", "session.testing._server", "session.testing._transport",
    },
    "httpx2": {"session.sdk", "session.testing._transport"},
    "redis": {"session.storage.redis"},
    "sqlite3": {"session.storage.sqlite", "session.search._file"},
    "click": {"session.cli"},  # and all below it, as in the next three
    "rich": {"session.cli"},
    "hypothesis": {"eventstore.testing", "session.testing"},
    "pytest": {"eventstore.testing", "session.testing"},
}  # fmt: skip
DEPENDENCIES = {"lmdb", "msgspec"}


@cache
def files(package: str) -> dict[str, Path]:
    """Every module of *package* by its dotted name."""
    found = {}
    for path in sorted((REPOSITORY / package).rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    assert found
    return found


def imports_of(node: ast.AST, *, lazy: bool = True) -> Iterator[tuple[str, str]]:
    """Module and name (empty: the module itself) of each import that is run; with *lazy*, those in functions too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, "") for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert not child.level, "relative imports hide the arrows"
            yield from ((child.module or "", alias.name) for alias in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from imports_of(other, lazy=lazy)
        elif lazy or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports_of(child, lazy=lazy)


@cache
def imports(module: str, *, lazy: bool = True) -> frozenset[str]:
    """The modules that *module* imports when it runs: ours by their full names."""
    package = module.partition(".")[0]
    tree = ast.parse(files(package)[module].read_text())
    found = set()
    for source, name in imports_of(tree, lazy=lazy):
        ours = files(source.partition(".")[0]) if source.partition(".")[0] in {"eventstore", "session"} else {}
        found.add(f"{source}.{name}" if f"{source}.{name}" in ours else source)
    return frozenset(found - {module})


def own_arrows(package: str, *, lazy: bool = True) -> dict[str, set[str]]:
    """Which modules of *package* each of them imports."""
    known = files(package)
    return {module: {other for other in imports(module, lazy=lazy) if other in known} for module in known}


def roots() -> list[str]:
    return ["eventstore", "session"]


def place(module: str) -> str:
    """The name of a module on the map: the first part behind its package."""
    return ".".join(module.split(".")[1:2])


FLOORS = {name: floor for floor, names in enumerate(EVENTSTORE) for name in names}
ROOMS = {name: room for room, (names, _) in SESSION.items() for name in names}


# ---------------------------------------------------------------------------------------------------------- arrows


def test_the_map_of_eventstore_shows_what_there_is() -> None:
    assert {place(module) for module in files("eventstore")} == set(FLOORS)


def test_every_module_of_session_has_a_room() -> None:
    homeless = {place(module) for module in files("session")} - set(ROOMS)
    assert not homeless, "give them a room on the map"


def test_no_name_is_on_the_map_twice() -> None:
    assert len(FLOORS) == sum(map(len, EVENTSTORE))
    assert len(ROOMS) == sum(len(names) for names, _ in SESSION.values())


def test_in_eventstore_imports_lead_down() -> None:
    for module, imported in own_arrows("eventstore").items():
        for other in imported:
            if place(other) == place(module) == "testing":
                continue
            assert FLOORS[place(other)] < FLOORS[place(module)], f"{module} imports {other}"


def test_in_session_imports_lead_to_rooms_that_are_open() -> None:
    for module, imported in own_arrows("session").items():
        room = ROOMS[place(module)]
        for other in imported:
            open_rooms = {room, *SESSION[room][1]}
            # `from session import jsontext` names the module, not the facade.
            assert ROOMS[place(other)] in open_rooms, f"{module} ({room}) imports {other} ({ROOMS[place(other)]})"


@pytest.mark.parametrize("package", roots())
def test_no_imports_run_in_circles(package: str) -> None:
    graphlib.TopologicalSorter(own_arrows(package, lazy=False)).prepare()


def test_in_eventstore_not_even_imports_inside_functions_run_in_circles() -> None:
    graphlib.TopologicalSorter(own_arrows("eventstore")).prepare()


def test_eventstore_knows_nothing_of_conversations() -> None:
    for module in files("eventstore"):
        assert not {other for other in imports(module) if other.partition(".")[0] == "session"}, module


# ----------------------------------------------------------------------------------------------------------- seams


@pytest.mark.parametrize("library", SEAMS)
def test_a_library_is_imported_only_where_it_belongs(library: str) -> None:
    for package in roots():
        if library == package:
            continue
        for module in files(package):
            touched = {other.partition(".")[0] for other in imports(module)}
            there = {module, ".".join(module.split(".")[:2])} if place(module) in {"cli", "testing"} else {module}
            assert library not in touched or there & SEAMS[library], f"{module} imports {library}"


def test_session_sees_only_what_eventstore_shows() -> None:
    public = {"eventstore", "eventstore.verify", "eventstore.testing"}
    for module in files("session"):
        assert {other for other in imports(module) if other.partition(".")[0] == "eventstore"} <= public, module


def test_eventstore_needs_nothing_but_its_dependencies() -> None:
    known = DEPENDENCIES | {"eventstore"} | sys.stdlib_module_names
    for module in files("eventstore"):
        if place(module) != "testing":
            assert {other.partition(".")[0] for other in imports(module)} <= known, module


def test_the_oracle_shares_no_helper_with_the_log_on_disk() -> None:
    assert own_arrows("eventstore")["eventstore.memory"] == {"eventstore.errors", "eventstore.log"}


def test_the_rules_of_the_api_are_judged_without_the_linter() -> None:
    """`lint` and the scripted API's rules judge each other: they must not share a line."""
    arrows = own_arrows("session")
    reached, new = set[str](), {"session.testing.rules"}
    while new:
        reached |= new
        new = {other for module in new for other in arrows[module]} - reached
    assert not {place(module) for module in reached} & {"lint", "_finders", "_block_faults", "_history"}


@pytest.mark.parametrize(
    ("package", "unwanted"),
    [
        ("eventstore", ["anthropic", "redis", "sqlite3", "click", "httpx2", "session", "hypothesis", "pytest"]),
        ("session", ["anthropic", "redis", "sqlite3", "click", "httpx2", "hypothesis", "pytest"]),
    ],
)
def test_an_import_brings_nothing_slow_with_it(package: str, unwanted: list[str]) -> None:
    code = f"import sys, {package}; print(*sorted(set({unwanted!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
