"""How answers are printed, and the command line of `python -m bench` and of each module."""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import lmdb
import msgspec

from bench.harness import Finding, Result, Series, Size, Unit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MISSED = 1
CONTENT_DIFFERS = 3  # 2 is argparse's


class Environment(msgspec.Struct, frozen=True):
    """Where the figures were taken."""

    python: str
    lmdb: str
    msgspec: str
    sqlite: str
    kernel: str
    cpus: int
    file_system: str


class Report(msgspec.Struct, frozen=True):
    """What `--json` prints."""

    environment: Environment
    size: Size
    results: dict[str, Result]


def main(benches: Mapping[str, Callable[[Size], Result]], arguments: Sequence[str] | None = None) -> int:
    """Run *benches* as the command line says, print the answers, and return the exit code."""
    parser = _parser(list(benches))
    options = parser.parse_args(arguments)
    if options.small and options.check:
        parser.error("the bars are meant for the full size")
    if unknown := set(options.bench) - set(benches):
        parser.error(f"no such bench: {', '.join(sorted(unknown))}")
    chosen = options.bench or list(benches)
    size = Size(options.dir.resolve(), small=options.small, rounds=options.rounds or (2 if options.small else 7))
    environment = describe_environment(size.directory)
    if not options.json:
        print(_environment_text(environment, size), flush=True)
    results = {}
    for name in chosen:
        results[name] = benches[name](size)
        if not options.json:
            print(result_text(name, results[name], judge=not size.small), flush=True)
    if options.json:
        report = msgspec.json.encode(Report(environment, size, results), enc_hook=str)
        print(msgspec.json.format(report, indent=2).decode())
    return _exit_code(list(results.values()), check=options.check)


def _parser(names: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="What the store costs. Ratios count; absolute times vary.")
    if len(names) > 1:
        parser.add_argument("bench", nargs="*", help=f"which ones of {', '.join(names)} (default: all)")
    else:
        parser.set_defaults(bench=names)
    parser.add_argument("--small", action="store_true", help="only see that it works: the figures mean nothing")
    parser.add_argument("--rounds", type=int, default=0, help="counted rounds (default: 7, small: 2)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help=f"exit with {MISSED} if a bar is missed")
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path(),
        help="where to put the files, about 2 GB, removed at the end (default: here); must be a real disk",
    )
    return parser


def _exit_code(results: list[Result], *, check: bool) -> int:
    if not all(result.agreed for result in results):
        return CONTENT_DIFFERS
    return MISSED if check and not all(result.met for result in results) else 0


def describe_environment(directory: Path) -> Environment:
    """Versions, machine, and the file system that holds *directory*."""
    return Environment(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        lmdb=f"{metadata.version('lmdb')} (engine {'.'.join(map(str, lmdb.version()))})",
        msgspec=metadata.version("msgspec"),
        sqlite=sqlite3.sqlite_version,
        kernel=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpus=os.cpu_count() or 0,
        file_system=_file_system(directory),
    )


def _file_system(directory: Path) -> str:
    """The type as the mount table of Linux names it; elsewhere "unknown"."""
    try:
        mounts = [line.split(" ") for line in Path("/proc/self/mounts").read_text().splitlines()]
    except FileNotFoundError:
        return "unknown"
    holding = [(mount[1], mount[2]) for mount in mounts if directory.is_relative_to(mount[1].replace("\\040", " "))]
    # Of two mounts on one point the later hides the earlier: `max` would return the first of equals.
    return max(reversed(holding), key=lambda mount: len(mount[0]), default=("", "unknown"))[1]


def _environment_text(environment: Environment, size: Size) -> str:
    text = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in msgspec.to_builtins(environment).items())
    lines = [text, f"{size.rounds} interleaved rounds after one to warm up; medians, and ratios within a round"]
    if size.small:
        lines.append("SMALL: these figures mean nothing")
    if environment.file_system in {"tmpfs", "ramfs"}:
        lines.append(f"NOT A DISK: {size.directory} is in memory, where a flush costs nothing (see --dir)")
    return "\n".join(lines)


def result_text(name: str, result: Result, *, judge: bool = True) -> str:
    """The answer for a terminal. Bars are meant for the full size: without *judge* they are only named."""
    width = max(len(each.contestant) for each in result.series)
    lines = ["", f"{name}: {result.question}"]
    lines += [_series_text(each, width) for each in result.series]
    lines += [_finding_text(finding, judge=judge) for finding in result.findings]
    lines += [_hash_text(work, by_contestant) for work, by_contestant in result.hashes.items()]
    lines += [f"  note: {note}" for note in result.notes]
    return "\n".join(lines)


def _series_text(series: Series, width: int) -> str:
    low, high = (amount(pick(series.values), series.unit) for pick in (min, max))
    median = amount(series.median, series.unit)
    return f"  {series.contestant:<{width}}  {series.durability:>4}  {median:>12}   ({low} .. {high})"


def _finding_text(finding: Finding, *, judge: bool) -> str:
    text = f"  => {finding.what}: {amount(finding.value, finding.unit)}"
    verdict = "not judged" if not judge else "ok" if finding.met else "MISSED"
    for word, limit in (("at most", finding.at_most), ("at least", finding.at_least)):
        if limit is not None:
            text += f"   {verdict}, {word} {amount(limit, finding.unit)}"
    return text


def _hash_text(work: str, by_contestant: dict[str, str]) -> str:
    hashes = set(by_contestant.values())
    if len(hashes) == 1:
        return f"  content of {work}: {hashes.pop()[:16]}, the same in {', '.join(by_contestant)}"
    differing = ", ".join(f"{contestant} {value[:16]}" for contestant, value in by_contestant.items())
    return f"  CONTENT DIFFERS, {work}: {differing}"


def amount(value: float, unit: Unit) -> str:
    """A figure with its unit, in about four characters."""
    match unit:
        case "s":
            return _seconds(value)
        case "bytes":
            return f"{value:,.0f} B" if value < 100_000 else f"{value / 1e6:,.2f} MB"
        case "1/s":
            return f"{value:,.0f}/s"
        case "x":
            return f"{value:,.2f}x"
        case "%":
            return f"{value:.2f} %"
        case _:
            assert_never(unit)


def _seconds(value: float) -> str:
    if value < 1e-3:
        return f"{value * 1e6:.1f} us"
    return f"{value * 1e3:.2f} ms" if value < 1 else f"{value:.2f} s"


def run_alone(module: str, run: Callable[[Size], Result]) -> None:
    """Be the program of one bench: `python -m bench.append`."""
    sys.exit(main({Path(module).stem: run}))
