"""What produces turns: the agent's port and its adapters.

`port` says what an agent does; `echo` is the demo, `python` an async generator, `command` any
program (`program` finds it, `process` runs it, `lines` reads it, `ledger` finds what outlived a
daemon), `openai` any OpenAI-compatible endpoint, `acp` any agent of the Agent Client Protocol. One
contract suite (`tests/contract/agent.py`) holds all of them to the port.
Invariant: an agent knows one turn at a time and nothing of connections, storage or order.
"""
