"""Reads an HTTP answer as lines, or as the events of a `text/event-stream`.

Neighbours: `transcript` reads with it.
Invariant: a line that is none of the format is an error.
"""

import json


async def lines(response):
    # Not httpx's own: that one splits at every line end of Unicode.
    rest = b""
    async for part in response.aiter_bytes():
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r").decode()
    if rest:
        yield rest.decode()


async def json_lines(response):
    async for line in lines(response):
        if line:
            yield json.loads(line)


async def events(response):
    """Each event as `{id?, data}`; comments are left out."""
    event = {}
    async for line in lines(response):
        if not line:
            if "data" in event:
                yield event
            event = {}
        elif line.startswith("id:"):
            event["id"] = int(line[3:])
        elif line.startswith("data:"):
            event["data"] = json.loads(line[5:])
        elif not line.startswith(":"):
            raise ValueError(f"a line of no event stream: {line!r}")
