"""One magnitude threshold over a whole model, without holding the model: radix selection on the bits of float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor

from .sparsify import Trim, kept

DIGIT = 16
DIGITS = 4


def model_trim(tensors: Callable[[], Iterator[tuple[str, Tensor]]], density: float) -> dict[str, Trim]:
    """Return {module: trim} that together keep int(density * entries) of all tensors.

    The bits of a non-negative float64, read as an integer, sort like the number. Four passes of 16 bits each find the
    k-th largest exactly; a pass holds one tensor and a histogram.

    Parameters
    ----------
    tensors : yields (module, tensor) anew for each pass
    """
    sizes = {module: tensor.numel() for module, tensor in tensors()}
    k = kept(density, sum(sizes.values()))
    if k >= sum(sizes.values()):
        return dict.fromkeys(sizes, Trim(-1.0, 0))
    if k <= 0:
        return dict.fromkeys(sizes, Trim(float("inf"), 0))
    prefix, remaining = 0, k
    for digit in reversed(range(DIGITS)):
        counts = np.zeros(1 << DIGIT, dtype=np.int64)
        for _, tensor in tensors():
            bits = tensor.double().abs().flatten().numpy().view(np.int64)
            bits = bits[bits >> (DIGIT * (digit + 1)) == prefix] if digit < DIGITS - 1 else bits
            counts += np.bincount((bits >> (DIGIT * digit)) & ((1 << DIGIT) - 1), minlength=1 << DIGIT)
        from_top = counts[::-1].cumsum()
        place = int(np.searchsorted(from_top, remaining))  # first bin, from the top, that reaches the k-th
        value = (1 << DIGIT) - 1 - place
        remaining -= int(from_top[place] - counts[value])
        prefix = (prefix << DIGIT) | value
    threshold = float(np.array(prefix, dtype=np.int64).view(np.float64))
    trims = {}
    for module, tensor in tensors():
        equal = min(remaining, int((tensor.double().abs() == threshold).sum()))
        trims[module] = Trim(threshold, equal)
        remaining -= equal
    return trims
