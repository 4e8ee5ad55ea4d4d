"""What the app measures on demand: a forecast of what a merge keeps, and what leaving one adapter or layer out changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .bank import weights_only
from .errors import MergeError
from .leave_out import Step, leave_one_adapter_out, leave_one_layer_out, merging_with
from .methods import METHODS
from .models import working_copy
from .plugins import Orthogonalize, SoftOSRM
from .pools import POOLS
from .prediction import Predictor, read_bank
from .workbench import NO_TEXTS, Settings, Workbench, needs_data


@dataclass(frozen=True)
class Forecast:
    """What the predictor says of a merge before anybody runs it; plain values.

    Attributes
    ----------
    kept : mean over tasks of accuracy / the adapter's own accuracy; None where the predictor may not be asked
    error : four of five merges of task subsets that it had not seen were predicted closer than this
    reasons : why it may not be asked, a sentence each
    """

    kept: float | None
    error: float
    reasons: tuple[str, ...] = ()


class OnDemand:
    """Forecasts and leave-one-outs on a workbench's pools."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench

    @cached_property
    def _predictor(self) -> Predictor | None:
        path = self.bench.tables / "bank.csv"
        if not path.exists():
            return None
        adapters = [adapter for pool in POOLS if pool in self.bench.pools for adapter in self.bench.adapters(pool)]
        return Predictor.fit(read_bank(path), adapters)

    def forecast(self, settings: Settings) -> Forecast:
        """Predict what a merge keeps from its weights alone, in a second or two; never guesses where the predictor knows nothing."""
        predictor = self._predictor
        if predictor is None:
            return Forecast(None, 0.0, ("The bank of merges has not been measured: “mergescope experiment bank” makes it.",))
        if not predictor.validation.useful:
            found = predictor.validation
            reason = (
                f"On task subsets that it had not seen the predictor was off by {found.error:.3f}, always saying the mean by "
                f"{found.mean_error:.3f}: no better, so it is not asked."
            )
            return Forecast(None, predictor.error, (reason,))
        merged = self.bench.merged(settings)
        unseen = predictor.unseen(merged)
        if unseen:
            return Forecast(None, predictor.error, tuple(unseen))
        try:
            kept, error = predictor.predict(weights_only(merged))
        except MergeError as refusal:
            return Forecast(None, predictor.error, (str(refusal),))
        return Forecast(kept, error)

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
                "decouple": settings.decouple,
            }
        features = self.bench.texts(settings.pool, settings.k) if needs_data(settings) else None
        merge_of = merging_with(adapters, settings.method, settings.weights, seed=settings.seed, features=features, **arguments)
        base, tokenizer = self.bench.base(*self.bench.base_of(settings.pool))
        tasks = [self.bench.encoded(settings.pool, adapter.task, "test").first(limit) for adapter in adapters]
        model = working_copy(base, self.bench.modules(settings.pool))
        measure = {"adapter": leave_one_adapter_out, "layer": leave_one_layer_out}[part]
        yield from measure(model, tokenizer, adapters, merge_of, tasks)
