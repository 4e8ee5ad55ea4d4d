"""The errors that Mergescope raises on purpose: one sentence that says what is wrong, where, and what to do."""


class MergeError(ValueError):
    """Something that the user gave cannot be treated exactly; the message names it and says what to do.

    Names in it may be a stranger's: what would break the line or turn its direction is written as an escape.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__("".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in str(message)))


class Cancelled(MergeError):  # noqa: N818 - it is a request of the user, not a fault
    """Raise it from ``on_module`` to stop a merge cleanly between two modules."""


class ResourceError(MergeError):
    """An embedded resource (model or data) could not be reached or is not what it should be."""
