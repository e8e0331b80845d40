"""Whether a server keeps the protocol: golden transcripts, and their replay against its address.

`transcripts` is the format and finds the published ones, `matching` compares what came with what
is written, `streams` does so frame by frame, `sockets` and `replay` talk to the server, `suite`
runs many; `agents` is what a server has to serve for most of them. `dispatch conformance` is the
command.
Invariant: nothing here imports the daemon; what is known of a server came over its wire.
"""
