"""Replays golden transcripts: python -m replay URL FIXTURES [part of a path ...]

Neighbours: `transcript` replays one.
Invariant: a transcript that fails makes the exit status 1.
"""

import asyncio
import json
import pathlib
import sys

import httpx

from replay.transcript import Transcript


async def main(url, folder, *parts):
    failed = 0
    # One after the other: lists and read cursors are the person's, not the transcript's.
    async with httpx.AsyncClient(timeout=None) as http:
        served = {agent["name"] for agent in (await http.get(url + "/agents")).json()["agents"]}
        for path in sorted(pathlib.Path(folder).glob("*/*.json")):
            name = f"{path.parent.name}/{path.stem}"
            if parts and not any(part in name for part in parts):
                continue
            transcript = json.loads(path.read_text())
            if missing := set(transcript["agents"]) - served:
                print(f"skip {name}: no {', '.join(sorted(missing))}")
                continue
            wrong = await Transcript(url, http).replay(transcript["steps"])
            print(f"FAIL {name}: {wrong}" if wrong else f"pass {name}", flush=True)
            failed += bool(wrong)
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1].rstrip("/"), *sys.argv[2:])))
