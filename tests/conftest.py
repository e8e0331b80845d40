"""What every test shares: the backend of async tests, and how hard Hypothesis looks.

In CI the examples are the same each time, so a red run can be run again; on a desk they are new
each time, so that the suite goes on finding things.
"""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# A shared machine stalls now and then; the time limit of a test is pytest-timeout's business.
settings.register_profile("dev", deadline=None)
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "dev")

# A shell that runs the suite in the background has it ignore Ctrl-C, and with it every program that
# a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The daemon is an asyncio program. For the session, so that any fixture may be async."""
    return "asyncio"
