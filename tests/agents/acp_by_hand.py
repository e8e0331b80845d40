"""An agent of the Agent Client Protocol in plain Python: lines of JSON-RPC over stdio, by hand.

Neighbours: `test_acp*` run its text followed by a source of their own that replaces parts of it;
`tests/e2e/test_acp.py` runs it as it is. It knows nothing of any library, so that a mistake that a
library makes on both sides cannot hide.
Invariant: it reads only when it waits for something, and does then what it is told.
"""

import json
import os
import sys
import uuid

CAPABILITIES = {}
AUTH_METHODS = []
BEGINNING = {}
STORE = sys.argv[1] if len(sys.argv) > 1 else None

session = ""
said = []
heard = []
is_cancelled = False
asked = 0


def write(**message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def read():
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    heard.append(json.loads(line))
    return heard[-1]


def update(kind, /, **fields):
    body = {"sessionUpdate": kind, **fields}
    write(method="session/update", params={"sessionId": session, "update": body})


def block(text):
    return {"type": "text", "text": text}


def content(text):
    return [{"type": "content", "content": block(text)}]


def say(text):
    update("agent_message_chunk", content=block(text))


def think(text):
    update("agent_thought_chunk", content=block(text))


def tool(call, /, **fields):
    update("tool_call", toolCallId=call, **fields)


def progress(call, /, **fields):
    update("tool_call_update", toolCallId=call, **fields)


def request(method, **params):
    """Ask the client and wait for its answer; what else arrives is taken note of."""
    global asked
    asked += 1
    write(id=f"a{asked}", method=method, params=params)
    while True:
        message = read()
        if message.get("id") == f"a{asked}" and "method" not in message:
            return message
        note(message)


OPTIONS = [
    {"optionId": "once", "name": "Yes", "kind": "allow_once"},
    {"optionId": "always", "name": "Always", "kind": "allow_always"},
    {"optionId": "never", "name": "No", "kind": "reject_once"},
]


def permission(call="call-1", options=OPTIONS, **fields):
    about = {"toolCallId": call, **fields}
    found = request(
        "session/request_permission", sessionId=session, toolCall=about, options=options
    )
    return found["result"]["outcome"]


def note(message):
    global is_cancelled
    if message.get("method") == "session/cancel":
        is_cancelled = True


def wait_for_cancel():
    while not is_cancelled:
        note(read())
    return "cancelled"


def prompt(text, blocks):
    match text.split():
        case ["ask"]:
            outcome = permission(title="Remove a file", kind="delete", rawInput={"path": "x"})
            progress("call-1", status="completed", content=content("ok"))
            say(f"answer: {outcome.get('optionId', outcome['outcome'])}")
        case ["crash"]:
            say("so far")
            sys.stderr.write("came apart\n")
            sys.exit(7)
        case ["wait"]:
            say(f"waiting {os.getpid()}")
            return wait_for_cancel()
        case ["pid"]:
            say(str(os.getpid()))
        case ["recall"]:
            say(json.dumps(said))
        case ["blocks"]:
            say(json.dumps(blocks))
        case _:
            say(text)
    return "end_turn"


def initialize(params):
    return {
        "protocolVersion": 1,
        "agentCapabilities": {"loadSession": STORE is not None, **CAPABILITIES},
        "authMethods": AUTH_METHODS,
    }


def new_session(params):
    global session
    session = f"session-{uuid.uuid4().hex}"
    return {"sessionId": session, **BEGINNING}


def load_session(params):
    global session
    path = os.path.join(STORE, params["sessionId"])
    session = params["sessionId"]
    if not os.path.exists(path):
        raise LookupError("no such session")
    with open(path) as file:
        said.extend(json.load(file))
    for text in said:
        update("user_message_chunk", content=block(text))
        say(f"replayed {text}")
    return BEGINNING


def take_prompt(params):
    global is_cancelled
    is_cancelled = False
    blocks = params["prompt"]
    texts = [one["text"] for one in blocks if one["type"] == "text"]
    stopped = prompt(texts[-1], blocks) or "end_turn"
    said.append(texts[-1])
    if STORE is not None:
        with open(os.path.join(STORE, session), "w") as file:
            json.dump(said, file)
    return stopped if isinstance(stopped, dict) else {"stopReason": stopped}


def other(method, params):
    raise LookupError(f"no method {method}")


def serve():
    while True:
        message = read()
        if "id" not in message or "method" not in message:
            note(message)
            continue
        method, params = message["method"], message.get("params", {})
        calls = {
            "initialize": initialize,
            "session/new": new_session,
            "session/load": load_session,
            "session/prompt": take_prompt,
        }
        try:
            call = calls.get(method)
            result = call(params) if call else other(method, params)
            write(id=message["id"], result=result)
        except LookupError as error:
            write(id=message["id"], error={"code": -32603, "message": str(error)})
        except PermissionError as error:
            write(id=message["id"], error={"code": -32000, "message": str(error)})


if __name__ == "__main__":
    serve()
