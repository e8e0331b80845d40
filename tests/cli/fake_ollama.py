"""What of Ollama a person's first minute needs: its list of models, and a model that answers.

Neighbours: the tests of `dispatch init` here and in `tests/e2e`. It says the last message back, as
server-sent events of its OpenAI-compatible side.
Invariant: real HTTP on the loopback; it ends with the block.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@contextmanager
def fake_ollama(
    *models: str, body: bytes | None = None, heads: list[str] | None = None
) -> Iterator[str]:
    """The URL of an Ollama with these models, or of something that answers `body`; it keeps the
    `heads` of the requests.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if heads is not None:
                heads.append(str(self.headers))
            listed = {
                "/api/tags": {"models": [{"name": name, "size": 1} for name in models]},
                "/v1/models": {"data": [{"id": name, "object": "model"} for name in models]},
            }
            told = json.dumps(listed.get(self.path, {})).encode() if body is None else body
            self._answer(200 if self.path in listed else 404, "application/json", told)

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            is_known = self.path == "/v1/chat/completions" and asked["model"] in models
            text = asked["messages"][-1]["content"]
            choice = {"index": 0, "delta": {"content": text}, "finish_reason": "stop"}
            chunk = json.dumps({"id": "c", "object": "chat.completion.chunk", "choices": [choice]})
            stream = f"data: {chunk}\n\ndata: [DONE]\n\n".encode()
            self._answer(200 if is_known else 404, "text/event-stream", stream)

        def _answer(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
