"""AHP over WebSocket, at `/ahp`: JSON-RPC messages in and out of the host in `runtime.ahp`.

`connection` is one socket, `methods` what may be asked over it, `refusals` how errors are called,
`heralds` tells of sessions that come, change and go.
Invariant: nothing of a client's is believed here; whatever it sends gets an answer or is ignored.
"""
