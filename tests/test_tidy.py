"""The style of the code, as far as a program can judge it.

Each rule is a function from one source file to its offences. Every rule is run twice: over the
tree, where it must find nothing, and over a snippet that breaks it, where it must find something;
a rule that cannot fail protects nobody.
"""

import ast
import functools
import importlib
import re
import subprocess
import tomllib
import types
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
MODULE_DOCSTRING_LINES_MIN = 3

# Names that do not decide what belongs in a file, so that everything ends up in it.
UNDECIDED_NAMES = frozenset(
    {"base", "common", "helper", "helpers", "manager", "misc", "util", "utils"}
)

# A task outside a task group has no parent to fail into. These folders bridge callbacks and
# tasks and may have a few; raising the number is a decision, not a detail.
TASK_FOLDERS = ("dispatch/runtime/", "dispatch/server/")
TASK_SITES_MAX = 4

# The boundaries where anything may fail: an agent, a peer, a disk, the program itself; and an
# errand, which must not take the others along.
# One handler each; pyproject.toml exempts the same files from the linter's rule.
BROAD_EXCEPTS_MAX = {
    "dispatch/cli/commands.py": 1,
    "dispatch/runtime/ahp/scope.py": 1,
    "dispatch/runtime/errand.py": 1,
    "dispatch/runtime/journal.py": 1,
    "dispatch/runtime/turns.py": 1,
    "dispatch/server/ahp/connection.py": 1,
    "dispatch/server/connection.py": 1,
    "dispatch/server/groups/watch.py": 1,
}


class Source(NamedTuple):
    """One Python file: its path from the root, its text, and its syntax tree."""

    path: str
    text: str
    tree: ast.Module

    @classmethod
    def parse(cls, path: str, text: str) -> "Source":
        return cls(path, text, ast.parse(text, path))

    def under(self, *folders: str) -> bool:
        return self.path.startswith(folders)

    def at(self, node: ast.AST, what: str) -> str:
        return f"{self.path}:{getattr(node, 'lineno', 1)}: {what}"


Rule = Callable[[Source], Iterator[str]]


@functools.cache
def sources(folder: str) -> list[Source]:
    files = sorted((ROOT / folder).rglob("*.py"))
    return [Source.parse(f.relative_to(ROOT).as_posix(), f.read_text("utf-8")) for f in files]


@pytest.fixture(scope="module", autouse=True)
def sources_are_kept_no_longer() -> Iterator[None]:
    """Trees of all files are a lot of memory for the tests that come after these."""
    yield
    sources.cache_clear()


def calls(source: Source) -> Iterator[tuple[ast.Call, str]]:
    """Every call, with the last part of the name that is called."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            match node.func:
                case ast.Name(id=name) | ast.Attribute(attr=name):
                    yield node, name


# ---------------------------------------------------------------- the rules


def long_file(source: Source) -> Iterator[str]:
    lines = len(source.text.splitlines())
    if lines > FILE_LINES_MAX:
        yield f"{source.path}: {lines} lines"


def long_function(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield source.at(node, f"{node.name} has {lines} lines")


def undecided_name(source: Source) -> Iterator[str]:
    path = PurePosixPath(source.path)
    yield from (
        f"{source.path}: {part}"
        for part in (*path.parent.parts, path.stem)
        if part.strip("_") in UNDECIDED_NAMES
    )


def silent_module(source: Source) -> Iterator[str]:
    lines = (ast.get_docstring(source.tree) or "").strip().splitlines()
    if len(lines) < MODULE_DOCSTRING_LINES_MIN:
        yield f"{source.path}: a docstring of {len(lines)} lines"


def task_site(source: Source) -> Iterator[str]:
    for node, name in calls(source):
        if name in {"create_task", "ensure_future"}:
            yield source.at(node, name)


def orphan_task(source: Source) -> Iterator[str]:
    if not source.under(*TASK_FOLDERS):
        yield from task_site(source)


def broad_except(source: Source) -> Iterator[str]:
    """Handlers of everything, and `suppress` of everything, which is the same thing."""
    everything = {"BaseException", "BaseExceptionGroup", "Exception", "ExceptionGroup"}

    def is_broad(node: ast.expr | None) -> bool:
        match node:
            case None:
                return True
            case ast.Tuple(elts=elements):
                return any(is_broad(element) for element in elements)
            case ast.Name(id=name) | ast.Attribute(attr=name):
                return name in everything
        return False

    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and is_broad(node.type):
            yield source.at(node, "except")
    for call, name in calls(source):
        if name == "suppress" and any(is_broad(argument) for argument in call.args):
            yield source.at(call, "suppress")


def unlisted_broad_except(source: Source) -> Iterator[str]:
    found = list(broad_except(source))
    if len(found) > BROAD_EXCEPTS_MAX.get(source.path, 0):
        yield from found


def untyped_dict(source: Source) -> Iterator[str]:
    if not source.under("dispatch/core/", "dispatch/runtime/"):
        return
    untyped = re.compile(r"(\w+\.)*(dict|Dict|\w*Mapping)\[str, (typing\.)?Any\]", re.ASCII)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Subscript) and untyped.fullmatch(ast.unparse(node)):
            yield source.at(node, ast.unparse(node))


def sleeping_test(source: Source) -> Iterator[str]:
    """A fixed sleep is a guess about somebody else's speed; `sleep(0)`, a yield, is none."""
    for call, name in calls(source):
        if name == "sleep" and call.args:
            numbers = [n.value for n in ast.walk(call.args[0]) if isinstance(n, ast.Constant)]
            named = any(isinstance(n, ast.Name | ast.Call) for n in ast.walk(call.args[0]))
            if any(numbers) and not named:
                yield source.at(call, ast.unparse(call))


def spliced_sql(source: Source) -> Iterator[str]:
    """Statements put together from strings, whether in the call or in a name it is given."""
    if not source.under("dispatch/storage/"):
        return

    def is_spliced(node: ast.expr) -> bool:
        match node:
            case ast.JoinedStr() | ast.BinOp(op=ast.Add() | ast.Mod()):
                return True
            case ast.Call(func=ast.Attribute(attr="format" | "join" | "replace")):
                return True
            case ast.Name(id=name):
                return name in spliced_names
        return False

    spliced_names: set[str] = set()
    for node in ast.walk(source.tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if is_spliced(value):
                spliced_names.add(name)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                if is_spliced(value):
                    spliced_names.add(name)
    for call, name in calls(source):
        if name.startswith("execute") and any(is_spliced(argument) for argument in call.args[:1]):
            yield source.at(call, ast.unparse(call.args[0]))


def root_import(source: Source) -> Iterator[str]:
    """The root re-exports the public names, so whoever inside imports it makes a cycle."""
    inside = {p.stem for p in (ROOT / "dispatch").glob("*") if not p.name.startswith("__")}
    for node in ast.walk(source.tree):
        match node:
            case ast.ImportFrom(module="dispatch", names=names):
                outside = [alias.name for alias in names if alias.name not in inside]
                yield from (source.at(node, name) for name in outside)
            case ast.Import(names=names) if any(alias.name == "dispatch" for alias in names):
                yield source.at(node, "import dispatch")


def unkept_exports(module: types.ModuleType) -> list[str]:
    names: list[str] = list(getattr(module, "__all__", ()))
    missing = [name for name in names if not hasattr(module, name)]
    return missing + sorted({name for name in names if names.count(name) > 1})


# Spelt in two parts, so that this file keeps the rule too.
FOREIGN = re.compile(
    rb"(?<![\w.-])/" rb"work/|(?<![\w.-])/" rb"root/|/opt/" rb"pypi"
    rb"|pypi" rb"\.org|python" rb"hosted|registry\.npm" rb"js|(deb|security)\.debian" rb"\.org"
)  # fmt: skip


def foreign_words(content: bytes) -> list[str]:
    return sorted({match.group().decode() for match in FOREIGN.finditer(content)})


# ---------------------------------------------------------------- held against the tree

RULES_OF_THE_PACKAGE: tuple[Rule, ...] = (
    long_file,
    long_function,
    undecided_name,
    silent_module,
    orphan_task,
    unlisted_broad_except,
    untyped_dict,
    spliced_sql,
    root_import,
)


def offences(rule: Rule, folder: str = "dispatch") -> list[str]:
    return [offence for source in sources(folder) for offence in rule(source)]


@pytest.mark.parametrize("rule", RULES_OF_THE_PACKAGE, ids=lambda rule: rule.__name__)
def test_the_package_keeps_every_rule(rule: Rule) -> None:
    assert offences(rule) == []


def test_tasks_are_started_in_few_places() -> None:
    assert len(offences(task_site)) <= TASK_SITES_MAX


def test_no_test_sleeps_for_a_fixed_time() -> None:
    assert offences(sleeping_test, "tests") == []


def test_no_test_file_has_an_undecided_name() -> None:
    assert offences(undecided_name, "tests") == []


def test_every_name_a_module_exports_exists() -> None:
    broken = {}
    for source in sources("dispatch"):
        if "__all__" in source.text:
            dotted = source.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            if missing := unkept_exports(importlib.import_module(dotted)):
                broken[dotted] = missing
    assert broken == {}


def published_files() -> list[Path]:
    """Tracked files and those about to be; where git will not say, all but plain by-products."""
    try:
        listing = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
        ).stdout.decode()
        paths = [ROOT / name for name in listing.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        hidden = re.compile(r"(^|/)(\.(?!ci/)|__pycache__/)")
        paths = [
            path for path in ROOT.rglob("*") if not hidden.search(path.relative_to(ROOT).as_posix())
        ]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def test_no_file_names_a_registry_or_a_path_of_one_machine() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): words
        for path in published_files()
        if (words := foreign_words(path.read_bytes()))
    }
    assert found == {}


# ---------------------------------------------------------------- held against an offence

MANY_LINES = "x = 1\n" * (FILE_LINES_MAX + 1)
LONG_FUNCTION = "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX

OFFENCES: list[tuple[Rule, str, str]] = [
    (long_file, "dispatch/x.py", MANY_LINES),
    (long_function, "dispatch/x.py", LONG_FUNCTION),
    (long_function, "dispatch/x.py", "async " + LONG_FUNCTION),
    (undecided_name, "dispatch/core/utils.py", ""),
    (undecided_name, "dispatch/common/x.py", ""),
    (undecided_name, "dispatch/_helpers.py", ""),
    (silent_module, "dispatch/x.py", "x = 1\n"),
    (silent_module, "dispatch/x.py", '"""One line."""\n'),
    (orphan_task, "dispatch/core/x.py", "asyncio.create_task(f())"),
    (orphan_task, "dispatch/client/x.py", "loop.create_task(f())"),
    (orphan_task, "dispatch/cli/commands.py", "ensure_future(f())"),
    (task_site, "dispatch/runtime/x.py", "group.create_task(f())"),
    (unlisted_broad_except, "dispatch/x.py", "try: f()\nexcept Exception: g()"),
    (unlisted_broad_except, "dispatch/x.py", "try: f()\nexcept (OSError, BaseException): g()"),
    (unlisted_broad_except, "dispatch/x.py", "try: f()\nexcept: g()"),
    (unlisted_broad_except, "dispatch/x.py", "try: f()\nexcept* Exception: g()"),
    (unlisted_broad_except, "dispatch/x.py", "with contextlib.suppress(Exception): g()"),
    (unlisted_broad_except, "dispatch/cli/commands.py", "try: f()\nexcept Exception: g()\n" * 2),
    (untyped_dict, "dispatch/core/x.py", "def f(x: dict[str, Any]) -> None: ..."),
    (untyped_dict, "dispatch/runtime/x.py", "def f() -> list[dict[str, typing.Any]]: ..."),
    (untyped_dict, "dispatch/core/x.py", "x: collections.abc.Mapping[str, Any] | None = None"),
    (sleeping_test, "tests/x.py", "time.sleep(0.1)"),
    (sleeping_test, "tests/x.py", "async def f(): await asyncio.sleep(2 * 0.5)"),
    (sleeping_test, "tests/x.py", "async def f(): await anyio.sleep(1)"),
    (spliced_sql, "dispatch/storage/x.py", "db.execute(f'DELETE FROM {table}')"),
    (spliced_sql, "dispatch/storage/x.py", "db.executemany('INSERT INTO ' + table, rows)"),
    (spliced_sql, "dispatch/storage/x.py", "db.execute_fetchall('SELECT %s' % column)"),
    (spliced_sql, "dispatch/storage/x.py", "sql = f'DROP TABLE {name}'\ndb.execute(sql)"),
    (spliced_sql, "dispatch/storage/x.py", "db.executescript('DROP {}'.format(name))"),
    (root_import, "dispatch/x.py", "from dispatch import connect_to_it"),
    (root_import, "dispatch/x.py", "import dispatch"),
]


@pytest.mark.parametrize(("rule", "path", "text"), OFFENCES)
def test_every_rule_finds_its_offence(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Source.parse(path, text)))


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (long_function, "dispatch/x.py", LONG_FUNCTION.removesuffix("    x = 1\n")),
        (silent_module, "dispatch/x.py", '"""One.\n\nThree.\n"""\n'),
        (orphan_task, "dispatch/runtime/x.py", "asyncio.create_task(f())"),
        (unlisted_broad_except, "dispatch/cli/commands.py", "try: f()\nexcept Exception: g()"),
        (unlisted_broad_except, "dispatch/x.py", "try: f()\nexcept OSError: g()"),
        (untyped_dict, "dispatch/protocol/x.py", "x: dict[str, Any]"),
        (sleeping_test, "tests/x.py", "time.sleep(0)\nasyncio.sleep(step * 2)\nclock.sleep(due)"),
        (spliced_sql, "dispatch/storage/x.py", "db.execute('SELECT 1', (f'{name}',))"),
        (root_import, "dispatch/x.py", "from dispatch.core import turn"),
    ],
)
def test_no_rule_finds_more_than_its_offence(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Source.parse(path, text))) == []


def test_every_rule_of_the_package_has_an_offence_to_find() -> None:
    assert {rule for rule, _, _ in OFFENCES} >= {*RULES_OF_THE_PACKAGE, task_site, sleeping_test}


def test_an_export_that_does_not_exist_is_found() -> None:
    module = types.ModuleType("sample")
    module.__dict__.update(present=1, __all__=["present", "absent"])
    assert unkept_exports(module) == ["absent"]


@pytest.mark.parametrize(
    "line",
    [
        b"--index-url " b"https://pypi" b".org/simple",
        b"https://files.python" b"hosted.org/x.whl",
        b'"resolved": "https://registry.npm' b'js.org/ws"',
        b"cd /wo" b"rk/main",
        b"#!/ro" b"ot/bin/python",
    ],
)  # fmt: skip
def test_a_foreign_word_is_found(line: bytes) -> None:
    assert foreign_words(line)


def test_a_path_that_merely_contains_a_foreign_word_is_not() -> None:
    assert foreign_words(b"/srv/wo" b"rk/agents and ./ro" b"ot/x") == []  # fmt: skip


# ---------------------------------------------------------------- what is installed


def pins(lock: str) -> dict[str, str]:
    """Package to exact version, of one lock."""
    text = (ROOT / "scripts" / "locks" / lock).read_text("utf-8")
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", text, re.MULTILINE))


def canonical(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name, requirement
    return re.sub(r"[._-]+", "-", name.group()).lower()


@pytest.mark.parametrize("lock", ["run.txt", "dev.txt"])
def test_every_line_of_a_lock_is_a_pin_with_hashes_and_nothing_else(lock: str) -> None:
    text = (ROOT / "scripts" / "locks" / lock).read_text("utf-8")
    body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for entry in body.replace("\\\n", " ").splitlines():
        pin, *hashes = entry.split(" --hash=sha256:")
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+( ; [^:/@]+)?\s*", pin), entry
        assert hashes, entry
        assert all(re.fullmatch(r"[0-9a-f]{64}\s*", value) for value in hashes), entry


def test_the_tests_run_the_versions_that_are_served() -> None:
    assert pins("run.txt").items() <= pins("dev.txt").items()


def test_the_locks_hold_everything_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    groups = project["dependency-groups"]
    run = {canonical(r) for r in project["project"]["dependencies"] + groups["build"]}
    assert run <= pins("run.txt").keys()
    assert run | {canonical(r) for r in groups["dev"]} <= pins("dev.txt").keys()
