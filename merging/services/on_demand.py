"""What the app measures on demand: what leaving one adapter or layer out changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..diagnostics.leave_out import Step, leave_one_adapter_out, leave_one_layer_out, merging_with
from ..errors import MergeError
from ..methods import METHODS
from ..models.layers import working_copy
from ..plugins.orthogonalize import Orthogonalize
from ..plugins.soft_osrm import SoftOSRM
from .workbench import NO_TEXTS, Settings, Workbench, needs_data


class OnDemand:
    """Leave-one-outs on a workbench's pools."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench

    def leave_out(self, settings: Settings, part: str, limit: int) -> Iterator[Step]:
        """Leave each adapter or each layer out in turn, on the first ``limit`` test rows of each task.

        Parameters
        ----------
        part : "adapter" or "layer"
        """
        if not self.bench.measured(settings.pool):
            raise MergeError(f"Leaving one out {NO_TEXTS}")
        adapters = self.bench.adapters(settings.pool)
        arguments: dict[str, Any] = dict(settings.params)
        if METHODS[settings.method].plugins:
            arguments |= {
                "soft_osrm": SoftOSRM(settings.mu) if settings.mu else None,
                "orthogonalize": Orthogonalize(settings.orthogonalize, settings.penalty),
                "decouple": settings.magnitude,
            }
        features = self.bench.texts(settings.pool, settings.k) if needs_data(settings) else None
        merge_of = merging_with(adapters, settings.method, settings.weights, seed=settings.seed, features=features, **arguments)
        base, tokenizer = self.bench.base(*self.bench.base_of(settings.pool))
        tasks = [self.bench.encoded(settings.pool, adapter.task, "test").first(limit) for adapter in adapters]
        model = working_copy(base, self.bench.modules(settings.pool))
        measure = {"adapter": leave_one_adapter_out, "layer": leave_one_layer_out}[part]
        yield from measure(model, tokenizer, adapters, merge_of, tasks)
