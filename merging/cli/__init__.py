"""The command line, the only part of the package that may import the app and its figures."""

from .main import cli, main

__all__ = ["cli", "main"]
