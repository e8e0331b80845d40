"""Measures a running daemon beside other servers on the same work: `scripts/bench`.

    __main__    what a person types, the rounds, the order
    rows        what is measured: one shape of load a row, and the aims
    dispatched  a dispatch daemon as a server under measurement
    rivals      the naive broker, Socket.IO and the C floor as the same
    generator   the load generator: builds wsload, runs it, reads what it says
    agents      what runs inside the daemon: agents that say what the generator publishes
    probe       what runs inside the daemon to watch its garbage collector
    client      a WebSocket client of a few lines, and a crowd of idle ones
    inside      rows that are measured from inside: storage port, journal
    alone       rows of a daemon alone: first delta, closed connections, garbage, kill -9
    machine     cores, files, disk: what the figures depend on
    report      tables and JSON

Invariant: the generator never shares a core with the server, every measurement has a server of its
own, and only processes that were started here are ended here, by their id.
"""
