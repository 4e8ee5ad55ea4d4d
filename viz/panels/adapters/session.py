"""What one visitor has brought to the Adapters panel."""

from dataclasses import dataclass, field
from typing import Any

from merging.services.shelf import Brought
from merging.services.visitor import Visitor


@dataclass
class AdaptersSession:
    """One visitor's shelf, own tasks and pools, and the base (source, dtype) of what is on the shelf."""

    visitor: Visitor = field(default_factory=Visitor)
    base: tuple[str, str] = ("minilm", "float32")
    vouched: bool = False
    run: int = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> "AdaptersSession":
        """Make a new visitor: Gradio copies a state's first value for every page."""
        return AdaptersSession()

    @property
    def shelf(self) -> list[Brought]:
        """The adapters that were brought along."""
        return self.visitor.shelf

    @property
    def pools(self) -> list[tuple[str, str]]:
        """(title, pool) of what was made here."""
        return self.visitor.pools.setdefault("adapters", [])

    def close(self) -> None:
        """Stop what runs."""
        self.run += 1
