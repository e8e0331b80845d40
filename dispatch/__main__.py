"""`python -m dispatch`, for where the `dispatch` script is not on the path.

Neighbours: `cli` is everything.
Invariant: the same as the script, to the exit code.
"""

from dispatch.cli import main

if __name__ == "__main__":
    main()
