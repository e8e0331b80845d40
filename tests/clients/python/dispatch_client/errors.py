"""What a client of dispatch may have to tell a person.

Neighbours: `link` and `client` raise them.
Invariant: all have one base.
"""


class DispatchError(Exception):
    """The base of everything that this package raises."""


class Refused(DispatchError):
    """The server said no; `retryable` means that the same may succeed later."""

    def __init__(self, code, message, retryable=False, retry_after=None):
        super().__init__(f"{code}: {message}")
        self.code = code
        self.retryable = retryable
        self.retry_after = retry_after

    @classmethod
    def of_frame(cls, frame):
        # A `group.error` has its words in `error` and says nothing of retrying.
        milliseconds = frame.get("retryAfterMs")
        return cls(
            frame.get("code", "error"),
            frame.get("message") or frame.get("error", ""),
            frame.get("retryable", False),
            milliseconds / 1000 if milliseconds is not None else None,
        )


class Lost(DispatchError):
    """The connection broke before the reply; whether it was done is not known."""


class Stopped(DispatchError):
    """The server does not want this client back (codes from 4500 on), or it was closed here."""

    def __init__(self, code, reason=""):
        super().__init__(f"{code} {reason}".strip())
        self.code = code
