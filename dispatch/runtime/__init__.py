"""Tasks, clocks and wake-ups: where decisions become durable and durable things become visible.

`broker` has the verbs, `conversations` the live ones, `live` is one of them, `turns` runs agents,
`journal` commits in groups, `feed` shows what was committed, `accounts` and `backlog` count,
`history` reads, `recovery` takes over what a dead incarnation left, `clock` is time and ids.
Invariant: the only way to a watcher is decide, journal, feed.
"""
