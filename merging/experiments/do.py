"""mergescope experiment do: DO-Merging's figures, measured on the shipped pools.

Pieces that need no training come first, other ranks, which cost most, come last. Everything is resumable, and several
processes share the work: a unit is claimed by one of them at a time, and who finds nothing to claim waits for the
others.

References
----------
Zheng et al., "Decouple and Orthogonalize: A Data-Free Framework for LoRA Merging", arXiv 2505.15875.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import MergeError
from .do_pieces.bench import Bench, Unit
from .do_pieces.full import full_units, lora_units
from .do_pieces.plan import Plan
from .do_pieces.training import epoch_units, rank_units
from .do_pieces.untrained import component_units, descent_units, direction_units, ends_unit, imbalance_units
from .ledger import Ledger

PAUSE = 5.0
"""Seconds between two looks at what other processes are at."""


class DoExperiment:
    """The experiment on one base model; `everything` yields a line per step. Resumable: what exists is not made again.

    Parameters
    ----------
    model, tokenizer : see `merging.models.load.load_base`
    adapters : folder of what is trained here, ``<set>/<task>``
    tables : folder of the tables ``do_*.csv``
    pools : folder of the shipped pools; None = the one in assets
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, plan: Plan, adapters: Path, tables: Path, pools: Path | None = None
    ) -> None:
        if len(plan.tasks) < 2 or len(plan.rates) < 2:
            raise MergeError("The experiment compares tasks and learning rates: name two or more of each.")
        self.plan, self.tables = plan, tables
        self.bench = Bench(model, tokenizer, plan, Ledger(tables, "do"), adapters, pools)

    def everything(self, training: bool = True) -> Iterator[str]:
        """Do what is missing, cheap things first; waits for what other processes are at.

        Parameters
        ----------
        training : False = only what needs no training
        """
        yield from self.missing()
        left = self.units(training)
        while left:
            waiting, moved = [], False
            for unit in left:
                if unit.done():
                    continue
                if not unit.ready():
                    waiting.append(unit)
                    continue
                with self.bench.ledger.claim(unit.name) as mine:
                    if not mine:
                        waiting.append(unit)
                    elif not unit.done():
                        yield from unit.work()
                        moved = True
            left = waiting
            if left and not moved:
                time.sleep(PAUSE)
        yield f"tables in {self.tables}"

    def missing(self) -> Iterator[str]:
        """Say which pools are left out, and what would make them."""
        plan = self.plan
        for pool in dict.fromkeys((*plan.shipped, *plan.pools, plan.imbalance_pool, plan.lora_pool)):
            lacking = self.bench.lacking(pool)
            if lacking:
                yield f"pool {pool} has no {', '.join(lacking)}: left out until mergescope train --pool {pool} is done"

    def units(self, training: bool = True) -> list[Unit]:
        """Return all pieces of work in order."""
        bench, plan = self.bench, self.plan
        units = [ends_unit(bench, pool) for pool in bench.whole_pools]
        there = [pool for pool in plan.pools if pool in bench.whole_pools]
        units += [unit for pool in there for unit in descent_units(bench, pool)]
        units += imbalance_units(bench)
        units += [unit for pool in there for unit in direction_units(bench, pool)]
        units += [unit for pool in there for unit in component_units(bench, pool)]
        units += lora_units(bench)
        if training:
            units += [*full_units(bench), *epoch_units(bench), *rank_units(bench)]
        return units
