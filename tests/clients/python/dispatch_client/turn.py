"""A turn, folded from its events or from the chunks of a snapshot.

Neighbours: `conversation` has the turns.
Invariant: an event that is not known changes nothing.
"""

from dataclasses import dataclass, field


@dataclass
class Turn:
    id: str
    message: str = ""
    text: str = ""
    thinking: str = ""
    calls: dict = field(default_factory=dict)
    results: dict = field(default_factory=dict)
    requests: dict = field(default_factory=dict)
    errors: list = field(default_factory=list)
    reason: str | None = None
    sealed: bool = False

    def take(self, event):
        """Events that are not known change nothing: a later server may say more."""
        match event["type"]:
            case "user-message":
                self.message = event["text"]
            case "text-delta":
                self.text += event["delta"]
            case "reasoning-delta":
                self.thinking += event["delta"]
            case "tool-call":
                self.calls[event["toolCallId"]] = event
            case "tool-result":
                self.results[event["toolCallId"]] = event
            case "error":
                self.errors.append(event)
            case "done":
                self.reason = event["reason"]
            case "turn-sealed":
                self.sealed = True
            case "chat.request":
                self.requests[event["requestId"]] = event
            case "chat.request.closed":
                self.requests.pop(event["requestId"], None)

    @classmethod
    def of_snapshot(cls, so_far):
        turn = cls(so_far["turnId"])
        for line in so_far["chunks"]:
            turn._take_chunk(line["role"], line["chunk"])
        turn.requests = {request["requestId"]: request for request in so_far["requests"]}
        return turn

    def _take_chunk(self, role, chunk):
        match chunk["type"]:
            case "text" if role == "user":
                # The first is the message, a later one what was steered in.
                self.message = self.message or chunk["text"]
            case "text":
                self.text += chunk["text"]
            case "thinking":
                self.thinking += chunk["text"]
            case "tool-call":
                self.calls[chunk["toolCallId"]] = chunk
            case "tool-result":
                self.results[chunk["toolCallId"]] = chunk
            case "error":
                self.errors.append(chunk)
