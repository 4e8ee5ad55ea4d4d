"""Where a base's files hold the experts of a layer: all in one tensor, as the model does, or a matrix per key, as older
transformers did and today's still writes for many architectures.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from ..adapters.base_files import conversion_rules


@dataclass(frozen=True)
class Piece:
    """What a module's update has to do with one stored tensor.

    Attributes
    ----------
    module : whose update it is
    expert : number of the matrix in the stored tensor, where that holds those of all experts
    transposed : the matrix is stored as (in, out)
    part, parts : the stored tensor is the part-th of so many equal ones below each other that make the module's weight
    """

    module: str
    expert: int | None = None
    transposed: bool = False
    part: int = 0
    parts: int = 1

    def of(self, stored: Tensor) -> Tensor:
        """Return the view (out, in) of the stored tensor that the update, or a part of it, is added to."""
        matrix = stored if self.expert is None else stored[self.expert]
        return matrix.T if self.transposed else matrix

    def rows(self, update: Tensor) -> Tensor:
        """Return the rows of the module's dense update (out, in) that belong to the stored tensor."""
        return update.chunk(self.parts)[self.part]


def split_experts(keys: Iterable[str], model: nn.Module) -> dict[str, dict[str, Piece]]:
    """Return {module ``parameter[expert]``: {key: Piece}} for keys that hold one expert's matrix, or a half of it.

    transformers' own rules say which they are; a rule that does more than stacking and joining is left out.
    """
    from transformers.core_model_loading import (  # noqa: PLC0415 - takes seconds
        Concatenate,
        MergeModulelist,
        rename_source_key,
    )

    renamings, converters = conversion_rules(model)
    known = model.state_dict()
    found: dict[str, dict[str, Piece]] = {}
    for key in keys:
        name, pattern = rename_source_key(key, renamings, converters, model.base_model_prefix, known)
        rule = next((rule for rule in converters if pattern in rule.source_patterns), None)
        if pattern is None or rule is None or name not in known:
            continue
        stacking, *joining = rule.operations
        plain = isinstance(stacking, MergeModulelist) and stacking.dim == 0 and len(joining) <= 1
        if not plain or any(not isinstance(step, Concatenate) or step.dim != 1 for step in joining):
            continue
        if (number := re.search(re.escape(pattern).replace(r"\*", r"(\d+)"), key)) is None:
            continue
        module = f"{name}[{int(number[1])}]"
        piece = Piece(module, part=rule.source_patterns.index(pattern), parts=len(rule.source_patterns))
        found.setdefault(module, {})[key] = piece
    return {module: pieces for module, pieces in found.items() if len(pieces) == next(iter(pieces.values())).parts}
