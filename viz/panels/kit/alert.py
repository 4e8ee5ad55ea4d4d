"""How a page says why something cannot be done."""

from html import escape


def alert(error: object) -> str:
    """Write why something cannot be done."""
    return f'<p class="ms-error" role="alert">{escape(str(error))}</p>'
