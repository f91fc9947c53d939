"""The rules of the house, kept by a test: sizes, names, the pure spine, import directions."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("streams", "model", "tests", "benchmarks", "examples")
MAX_FILE_LINES, MAX_MEDIAN_LINES, MAX_FUNCTION_LINES, MAX_COLUMNS = 400, 200, 70, 100

BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc"}

BESIDE = {
    "__init__",
    "assembly",
    "connect",
    "handshake",
    "logs",
    "metrics",
    "sections",
    "settings",
    "topics",
    "versions",
}
"""Files at the root of `streams/` that touch the world. All others there are the spine."""

IMPURE = {
    "aiokafka", "asyncio", "confluent_kafka", "datetime", "faust", "logging", "multiprocessing",
    "os", "pathlib", "prometheus_client", "random", "redis", "secrets", "shutil", "socket",
    "subprocess", "tempfile", "threading", "time", "torch", "urllib", "uuid",
}  # fmt: skip
"""Clock, chance, input and output: what a spine file may not import."""

ROOMS = {"live", "offline", "store", "clients", "adapters", "dev", "cli"}
PIPELINE_READERS = {"streams/live/agents.py", "streams/offline/replay.py"}


def files(*places: str) -> list[Path]:
    return sorted(path for place in places for path in (ROOT / place).rglob("*.py"))


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), shown(path))


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs; what stands under TYPE_CHECKING does not."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from runtime_nodes(child)


def imports(path: Path) -> set[str]:
    """Full names of what a file imports, with `from a import b` as a.b."""
    names: set[str] = set()
    for node in runtime_nodes(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{shown(path)}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def spine() -> list[Path]:
    return [path for path in sorted((ROOT / "streams").glob("*.py")) if path.stem not in BESIDE]


def sized(path: Path) -> Iterator[str]:
    """What is too large in a file."""
    lines = path.read_text("utf-8").splitlines()
    if len(lines) > MAX_FILE_LINES:
        yield f"{shown(path)}: {len(lines)} lines"
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_COLUMNS:
            yield f"{shown(path)}:{number}: {len(line)} columns"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield f"{shown(path)}:{node.lineno}: {node.name} has {length} lines"


def test_files_and_functions_are_of_a_size_to_read() -> None:
    faults = [fault for path in files(*SOURCES) for fault in sized(path)]
    assert not faults, "\n".join(faults)


def test_every_file_says_what_it_is() -> None:
    silent = [
        shown(path)
        for path in files(*SOURCES)
        if path.read_text("utf-8").strip() and not ast.get_docstring(tree(path))
    ]
    assert silent == []
    assert [shown(path) for path in files(*SOURCES) if path.stem in BANNED_NAMES] == []


def test_nothing_is_left_for_later() -> None:
    # Split so that this line does not find itself.
    later = re.compile(r"\b(TO" r"DO|FIX" r"ME)\b")
    assert [shown(path) for path in files(*SOURCES) if later.search(path.read_text("utf-8"))] == []


def test_most_files_are_short() -> None:
    sizes = [len(path.read_text("utf-8").splitlines()) for path in files("streams", "model")]
    assert statistics.median(sizes) < MAX_MEDIAN_LINES


def impurities(path: Path) -> set[str]:
    """What a file reaches for that a pure function may not have."""
    names = imports(path)
    guilty = {name.partition(".")[0] for name in names} & IMPURE
    rooms = {name.split(".")[1] for name in names if name.startswith("streams.")}
    guilty |= rooms & (ROOMS | (BESIDE - {"settings"}))
    called = {
        node.func.id
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    return guilty | called & {"open", "print", "input"}


def test_spine_is_pure() -> None:
    """No clock, no chance, no input or output on the way from a message to a decision."""
    assert {shown(path): found for path in spine() if (found := impurities(path))} == {}


def test_pipeline_is_imported_by_exactly_two_files() -> None:
    """That is what makes a replay equal to the live service."""
    readers = {
        shown(path)
        for path in files("streams", "model")
        if any(f"{name}.".startswith("streams.pipeline.") for name in imports(path))
    }
    assert readers == PIPELINE_READERS


def test_model_does_not_know_streams() -> None:
    guilty = {
        shown(path)
        for path in files("model")
        if any(name.partition(".")[0] == "streams" for name in imports(path))
    }
    assert guilty == set()


def test_only_the_consumer_touches_the_inside_of_faust() -> None:
    inside = ("faust.transport", "faust.app", "faust.assignor", "faust.streams", "mode")
    guilty = {
        shown(path)
        for path in files("streams")
        if any(name == i or name.startswith(f"{i}.") for name in imports(path) for i in inside)
    }
    # The consumer and, apart from it for size, the thread in which it reads.
    assert guilty <= {"streams/live/microbatch.py", "streams/live/fetch.py"}


def test_imports_keep_their_direction() -> None:
    """The contracts of import-linter, in pyproject.toml."""
    program = "from importlinter.cli import lint_imports_command as c; c()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-logo", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_lock_files_are_whole_and_name_no_address() -> None:
    """Every dependency of pyproject.toml is locked with hashes; the index is the user's choice."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [name for group in project["optional-dependencies"].values() for name in group]
    for file, wanted in (
        ("requirements.txt", project["dependencies"]),
        ("requirements-dev.txt", project["dependencies"] + extras),
    ):
        text = (ROOT / file).read_text("utf-8")
        assert "://" not in text
        assert "--index" not in text
        locked = set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))
        names = {re.split(r"[\[=<>~! ]", name)[0].lower().replace("_", "-") for name in wanted}
        assert names - locked == set()
        assert text.count("--hash=sha256:") >= len(locked)


def test_no_path_of_one_machine_in_any_text() -> None:
    """A path of somebody's home directory works for nobody else."""
    pattern = re.compile(r"(?<![\w.~-])/(?:home|root|Users)/\w")
    kinds = {".py", ".md", ".toml", ".yml", ".yaml", ".json", ".conf", ".properties", ".txt"}
    places = [*SOURCES, "infra", "docs", ".ci"]
    texts = [p for place in places for p in (ROOT / place).rglob("*") if p.suffix in kinds]
    texts += [p for p in ROOT.glob("*") if p.suffix in kinds or p.name == "Makefile"]
    guilty = [
        shown(path)
        for path in texts
        if path.stat().st_size < 1_000_000 and pattern.search(path.read_text("utf-8"))
    ]
    assert guilty == []


@pytest.mark.parametrize(("folder", "page"), [("streams", "README.md"), ("model", "docs/model.md")])
def test_the_file_map_names_every_file(folder: str, page: str) -> None:
    rows = [line for line in (ROOT / page).read_text("utf-8").splitlines() if line[:1] == "|"]
    named = set(re.findall(r"[\w]+", " ".join(re.findall(r"`([^`]+)`", " ".join(rows)))))
    files_there = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__"}
    assert files_there - named == set()
