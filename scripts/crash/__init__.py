"""What `scripts/demo-crash` runs: two watchers, a kill -9, and proof that nothing was lost.

`__main__` tells the story, `cast` has the processes in it, `proof` counts, `stage` shows.
Invariant: every figure is counted from what the processes really printed or the daemon answered.
"""
