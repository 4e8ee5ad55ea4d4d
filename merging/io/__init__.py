"""Bytes from outside: the hub, pinned wheels, files of strangers; measured before they are believed."""
