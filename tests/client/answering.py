"""An HTTP server that answers in the order a test says, and remembers what it was asked."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from dispatch.client import HttpApi, Options
from dispatch.client.dial import Address

Answer = tuple[int, object]


class HttpServer(ThreadingHTTPServer):
    """Answers in the order given; `seen`: (method, path, body, authorization).

    `cursors`: the `Last-Event-ID` of each request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[Answer] = []
        self.seen: list[tuple[str, str, object, str | None]] = []
        self.cursors: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def api(self, token: str | None = None) -> HttpApi:
        options = Options(backoff_seconds=0, reply_seconds=5)
        return HttpApi(Address.parse(self.url, token), options, read_attempts=3)


class _Handler(BaseHTTPRequestHandler):
    server: HttpServer

    def do_GET(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(size)) if size else None
        seen = (self.command, self.path, body, self.headers["Authorization"])
        self.server.seen.append(seen)
        self.server.cursors.append(self.headers["Last-Event-ID"])
        status, answer = self.server.answers.pop(0)
        if status == 0:
            # Hangs up without an answer, as a daemon that is killed does.
            return
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        is_stream = isinstance(answer, bytes) and not answer.startswith(b"<")
        self.send_header("Content-Type", "text/event-stream" if is_stream else "application/json")
        if status == 302:
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_PATCH = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running() -> Iterator[HttpServer]:
    """A server that accepts connections."""
    with HttpServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
