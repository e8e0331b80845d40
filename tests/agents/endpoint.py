"""An OpenAI-compatible endpoint on the loopback, as a program of its own: real HTTP, real SSE.

A program, so that the tests may count their own sockets and tasks; of the standard library alone,
so that it starts at once. Its paths are `/BEHAVIOUR/KEY/v1/…`: what it does is the behaviour, and
`GET /gone/KEY` answers once the peer of the last request under that key has hung up, `GET
/count/KEY` with the number of requests. `answers` starts it and writes what `scripted` plays.
Invariant: it does nothing by the clock; what is to come later waits for its peer, for ever.
"""

import asyncio
import json
import sys

WORDS = "word "


class Record:
    """What is known of the requests under one key."""

    def __init__(self) -> None:
        self.requests = 0
        self.lists = 0
        self.gone = asyncio.Event()


records: dict[str, Record] = {}


def chunk(delta: dict | None, **fields: object) -> bytes:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": None} | fields
    piece = {"id": "c-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(piece).encode() + b"\n\n"


class Exchange:
    """One request and its response."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.headers: dict[str, str] = {}
        self.method = self.path = ""
        self.body: dict = {}

    async def read(self) -> None:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        self.method, self.path, _ = first.split(" ")
        self.headers = {k.lower(): v.strip() for k, _, v in (x.partition(":") for x in lines if x)}
        if size := int(self.headers.get("content-length", "0")):
            self.body = json.loads(await self._reader.readexactly(size))

    async def begin(self, status: int = 200, **headers: str) -> None:
        given = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = f"HTTP/1.1 {status} Whatever\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in given.items() if value)
        self._writer.write(head.encode() + b"\r\n")
        await self._writer.drain()

    async def send(self, data: bytes) -> None:
        """One piece: a chunk of HTTP, written by itself."""
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self._writer.drain()

    async def end(self) -> None:
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    async def text(self, status: int, text: str, **headers: str) -> None:
        await self.begin(status, **({"content_type": "application/json"} | headers))
        await self.send(text.encode())
        await self.end()

    async def hung_up(self) -> None:
        """Wait until the peer is gone."""
        while await self._reader.read(65536):
            pass

    def cut(self) -> None:
        """Close without another word, in the middle of whatever was being said."""
        self._writer.close()


def last_text(body: dict) -> str:
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


async def says(exchange: Exchange, record: Record) -> None:
    """The last message, in pieces that respect neither words nor characters of UTF-8."""
    await exchange.begin()
    text = last_text(exchange.body)
    step = max(1, len(text) // 50)
    stream = b"".join(chunk({"content": text[i : i + step]}) for i in range(0, len(text), step))
    stream += chunk({}, finish_reason="stop")
    counts = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    stream += b"data: " + json.dumps({"choices": [], "usage": counts}).encode() + b"\n\n"
    stream += b"data: [DONE]\n\n"
    for start in range(0, len(stream), 1013):
        await exchange.send(stream[start : start + 1013])
    await exchange.end()


async def waits(exchange: Exchange, record: Record) -> None:
    await exchange.begin()
    await exchange.send(chunk({"content": WORDS}))
    await exchange.hung_up()


async def floods(exchange: Exchange, record: Record) -> None:
    await exchange.begin()
    block = chunk({"content": WORDS}) * 100
    while True:
        await exchange.send(block)


async def fails(exchange: Exchange, record: Record) -> None:
    await exchange.text(400, json.dumps({"error": {"message": "no good"}}))


async def repeats(exchange: Exchange, record: Record) -> None:
    """Says what it was told as JSON: path, headers and body. The key only if it is asked for, so
    that tests may look for it where it must not be.
    """
    headers = exchange.headers
    if "authorization" in headers and "show the key" not in last_text(exchange.body):
        headers = headers | {"authorization": "Bearer [redacted]"}
    told = {"path": exchange.path, "headers": headers, "body": exchange.body}
    await exchange.begin()
    await exchange.send(chunk({"content": json.dumps(told)}))
    await exchange.send(chunk({}, finish_reason="stop") + b"data: [DONE]\n\n")
    await exchange.end()


async def scripted(exchange: Exchange, record: Record) -> None:
    """What the last message says: answers, one a request, the last one again and again. `$KEY` in
    them becomes the key that came with the request.
    """
    key = exchange.headers.get("authorization", "").removeprefix("Bearer ")
    answers = json.loads(last_text(exchange.body))
    answer = answers[min(record.requests, len(answers)) - 1]
    if answer["end"] == "silence":
        await exchange.hung_up()
        return
    await exchange.begin(answer["status"], **answer["headers"])
    for piece in answer["pieces"]:
        await exchange.send(piece.replace("$KEY", key).encode("latin-1"))
    for piece in answer["forever"]:
        while True:
            await exchange.send(piece.encode("latin-1"))
    match answer["end"]:
        case "whole":
            await exchange.end()
        case "cut":
            exchange.cut()
        case "open":
            await exchange.hung_up()


async def models(exchange: Exchange, behaviour: str, record: Record) -> None:
    record.lists += 1
    match behaviour:
        case "recovers" if record.lists == 1:
            await exchange.text(503, "starting", content_type="text/plain")
        case "waits":
            await exchange.hung_up()
        case "fails":
            await exchange.text(401, '{"error":{"message":"bad key"}}')
        case "floods":
            await exchange.begin(content_type="application/json")
            while True:
                await exchange.send(b" " * 65536)
        case "garbled":
            await exchange.text(200, '{"data":[{"id":"good"},{"id":"b\\u001bad"},{"id":7}]}')
        case "listless":
            await exchange.text(404, "404 page not found", content_type="text/plain")
        case _:
            named = [{"id": name, "object": "model"} for name in ("large", "small", "b\x1bad", "")]
            await exchange.text(200, json.dumps({"object": "list", "data": named}))


BEHAVIOURS = {one.__name__: one for one in (says, waits, floods, fails, repeats, scripted)}
BEHAVIOURS["listless"] = says


async def answer(exchange: Exchange) -> None:
    _, behaviour, key, *rest = exchange.path.split("/")
    record = records.setdefault(key, Record())
    if behaviour == "gone":
        await record.gone.wait()
        await exchange.text(200, "true")
    elif behaviour == "count":
        await exchange.text(200, str(record.requests))
    elif rest == ["v1", "models"]:
        await models(exchange, behaviour, record)
    elif rest == ["v1", "chat", "completions"] and exchange.method == "POST":
        record.requests += 1
        try:
            await BEHAVIOURS[behaviour](exchange, record)
            await exchange.hung_up()
        finally:
            record.gone.set()
    else:
        await exchange.text(404, "404 page not found", content_type="text/plain")


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    exchange = Exchange(reader, writer)
    try:
        await exchange.read()
        await answer(exchange)
    except (ConnectionError, asyncio.IncompleteReadError):
        # The peer has hung up, which is its right.
        pass
    finally:
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        # Whoever started it holds its input, and ends it by letting go.
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)


if __name__ == "__main__":
    asyncio.run(main())
