"""The errors that Mergescope raises on purpose: one sentence that says what is wrong, where, and what to do."""


class MergeError(ValueError):
    """Something that the user gave cannot be treated exactly; the message names it and says what to do."""


class Cancelled(MergeError):  # noqa: N818 - it is a request of the user, not a fault
    """Raise it from ``on_module`` to stop a merge cleanly between two modules."""


class ResourceError(MergeError):
    """An embedded resource (model or data) could not be reached or is not what it should be."""
