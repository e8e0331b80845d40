"""An AHP client in Python, written from the specification alone.

`client` is the connection and its copies, `copies` one channel with what waits for its echo,
`folding` the reducers of each version. It imports nothing of the package: where it and a host
agree, they agree by the specification.
"""
