"""A workbench of seeded synthetic numbers, for the tests of figures and handlers."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from merging import Adapter, LowRank, merge_spec
from merging.diagnostics.linked import Diagnosis, diagnose
from merging.errors import MergeError
from merging.features.progress import Progress
from merging.methods import METHODS as REAL
from merging.recipes.spec import NOT_DECOUPLED, MergeSpec
from merging.services.governor import Governor
from merging.services.settings import Settings

TITLES = {
    "trec": "question type",
    "sms_spam": "SMS spam",
    "movie": "movie sentiment",
    "bbc": "news topic",
    "tweets3": "tweet sentiment",
    "newspaper": "newspaper tone",
}
BASE = (0.62, 0.92, 0.70, 0.89, 0.64, 0.58)
SINGLE = (0.88, 0.981, 0.81, 0.97, 0.752, 0.66)
WIDTH = 384


METHODS = {
    name: REAL[name]
    for name in (
        "average",
        "task_arithmetic",
        "do_merging",
        "ties",
        "svd",
        "peft_linear",
        "dare",
        "regmean",
        "emr",
        "core_space",
    )
}
PEAK = {
    "average": 0.0,
    "task_arithmetic": 0.3,
    "do_merging": 0.5,
    "ties": 0.7,
    "svd": 0.4,
    "peft_linear": 0.0,
    "dare": 0.5,
    "core_space": 0.3,
    "regmean": 0.6,
    "emr": 0.0,
}
TEXTS = 96  # read in batches of 32
MODULES = 12


def drawn(p: float, rows: int) -> str:
    """Marks of rows of which a share p is right; the easy rows are the same for everybody."""
    hard = np.random.default_rng(3).permutation(1000)[:rows] / 1000
    return "".join("1" if place < p else "0" for place in hard)


class FakeWorkbench:
    device = "CPU · 2 cores"
    tables = Path("nowhere")

    unmeasured: frozenset[str] = frozenset()
    measured_before: ClassVar[dict] = {}

    def __init__(self, pause: float = 0.0) -> None:
        self.pools = {"papers": "As in the papers", "default": "PEFT's default, own seeds", "osrm": "OSRM's init"}
        self.pause = pause
        self.governor = Governor(lambda: iter(()), lambda visitor: None)
        self.started: list[Settings] = []
        self.texts = 0  # read so far
        self.steps = 0  # of reading

    def tasks(self, pool: str) -> list[str]:
        return list(TITLES)

    def title(self, task: str) -> str:
        return TITLES[task]

    def base_title(self, pool):
        return "all-MiniLM-L6-v2"

    def measured(self, pool):
        return pool not in self.unmeasured

    def modules(self, pool: str) -> list[str]:
        return [f"encoder.layer.{n}.attention.self.{kind}" for n in range(6) for kind in ("query", "value")]

    def defaults(self, pool: str, method: str) -> MergeSpec:
        spec = MergeSpec.of(method)
        return spec if spec.scaling is None else spec.with_params(scaling=PEAK[method])

    def references(self, pool: str) -> pd.DataFrame:
        marks = {
            f"{end}_marks": [drawn(p, 1000) for p in values] for end, values in (("base", BASE), ("single", SINGLE))
        }
        return pd.DataFrame({"task": list(TITLES), "base": BASE, "single": SINGLE, "rows": 1000} | marks)

    def help(self, pool: str) -> str:
        return f"What {pool} teaches."

    def hardness(self, pool: str) -> None:
        return None

    def starts(self, pool: str) -> set[str]:
        return {"osrm" if pool == "osrm" else "default"}

    def known(self, settings: Settings, limit: int) -> list[SimpleNamespace]:
        return self.measured_before.get((settings.spec.method, settings.spec.scaling), [])

    def sweep(self, pool: str) -> pd.DataFrame:
        grid = np.round(np.arange(0.1, 1.05, 0.1), 2)
        frames = []
        for place, (method, peak) in enumerate(list(PEAK.items())[:4]):
            x = grid if peak else np.array([np.nan])
            y = (
                0.725
                + 0.06 * np.exp(-(((x - peak) / 0.35) ** 2))
                + 0.004 * place
                - 0.1 * np.clip(x - peak, 0, None) ** 2
            )
            y = y if peak else np.array([0.742])
            frames.append(
                pd.DataFrame({"method": method, "scaling": x, "average": y, "low": y - 0.012, "high": y + 0.012})
            )
        return pd.concat(frames, ignore_index=True)

    def update(self, settings: Settings) -> SimpleNamespace:
        recipe = "".join(f"{name}: {value}\n" for name, value in settings.to_dict().items())
        if settings.spec.soft_osrm and not self.texts_read(settings):
            return SimpleNamespace(recipe_yaml=recipe, notes=["texts first"], magnitude=None, magnitude_variance=None)
        return SimpleNamespace(recipe_yaml=recipe, notes=[], **self._magnitude(settings))

    def read(self, settings: Settings) -> Iterator[Progress]:
        if settings.spec.needs_data:
            yield from self.read_moments(settings)

    def read_moments(self, settings: Settings) -> Iterator[Progress]:
        while self.texts < TEXTS:
            time.sleep(self.pause)
            self.texts += 32
            self.steps += 1
            yield Progress("reading", self.texts, TEXTS)

    def texts_read(self, settings: Settings) -> bool:
        return self.texts >= TEXTS

    def diagnosis(self, settings: Settings) -> Diagnosis:
        """Diagnose a merge of small random adapters; without base, as there is none."""
        read = self.texts_read(settings)
        if settings.spec.needs_data and not read:
            raise MergeError("This merge needs texts <first>.")
        adapters = small_adapters(settings.pool)
        features = SMALL_FEATURES if read else None
        # what a method that needs texts does is not what is tested here
        spec = settings.spec if "data" not in METHODS[settings.spec.method].needs else MergeSpec.of("svd")
        spec = replace(spec, weights=settings.spec.weights, soft_osrm=None)
        merged = merge_spec(adapters, spec)
        follows = spec.decouple.follows_strength
        separated = merge_spec(adapters, replace(spec, decouple=NOT_DECOUPLED)).updates if follows else merged.updates
        return diagnose(adapters, merged, separated, features)

    def _magnitude(self, settings: Settings) -> dict[str, pd.DataFrame]:
        rng = np.random.default_rng(len(settings.pool))
        modules, parts = self.modules(settings.pool), []
        for task, weight in zip(TITLES, settings.spec.weights_for(len(TITLES)), strict=True):
            centre = -1.2 + rng.normal(0, 0.25) * (1 - settings.spec.decouple.strength) + np.log10(max(weight, 1e-9))
            values = rng.normal(centre, 0.2, size=len(modules) * WIDTH)
            parts.append(pd.DataFrame({"task": task, "module": np.repeat(modules, WIDTH), "log10_norm": values}))
        magnitude = pd.concat(parts, ignore_index=True).assign(column=0)
        variance = pd.DataFrame({"module": modules, "variance": 0.11, "norm_ratio": 1.4})
        return {"magnitude": magnitude, "magnitude_variance": variance}

    def overlap(self, settings: Settings, side: str, modules: list[str]) -> tuple[pd.DataFrame, float]:
        rng = np.random.default_rng(len(modules) + ord(side))
        centre = {"default": 0.03, "papers": 0.75, "osrm": 0.12}[settings.pool]
        names = list(TITLES)
        rows = [
            (a, b, float(np.clip(rng.normal(centre, 0.02), 0, 1))) for i, a in enumerate(names) for b in names[i + 1 :]
        ]
        return pd.DataFrame(rows, columns=["adapter_a", "adapter_b", "overlap"]), 8 / WIDTH

    def rank_curve(self, pool: str, task: str, module: str, k: int) -> pd.DataFrame:
        grid = np.unique(np.linspace(5, k, min(12, k // 5)).astype(int))
        rank = np.minimum(grid, WIDTH)
        energy = (120 * (1 - np.exp(-grid / 140))).astype(int) + 2
        return pd.DataFrame({"k": grid, "rank": rank, "energy_rank": np.minimum(energy, rank)})

    def evaluate(self, settings: Settings, limit: int) -> Iterator[SimpleNamespace | Progress]:
        self.started.append(settings)
        for done in range(MODULES + 1):
            yield Progress("merging", done, MODULES)
        rng = np.random.default_rng(7)
        scaling = 0.25 if settings.spec.scaling is None else settings.spec.scaling
        keep = np.exp(-((scaling - (PEAK[settings.spec.method] or 0.25)) ** 2) / 0.3) * 0.75
        truth = np.array(BASE) + keep * (np.array(SINGLE) - np.array(BASE))
        for done in [*range(16, limit, 32), limit]:
            for place, task in enumerate(TITLES):
                time.sleep(self.pause)
                p = float(np.clip(truth[place] + rng.normal(0, 0.2 / np.sqrt(done)), 0, 1))
                half = 1.96 * np.sqrt(p * (1 - p) / done + 1 / (4 * done**2))
                interval = (max(p - half, 0.0), min(p + half, 1.0))
                marks = drawn(p, done) + "." * (limit - done)
                yield SimpleNamespace(task=task, accuracy=p, interval=interval, done=done, total=limit, marks=marks)

    def warm_up(self, settings: Settings) -> None:
        pass


class SmallFeatures:
    """Second moments of random rows, of any task and module, in place of `merging.Features`."""

    def second_moment(self, task: str, module: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(sum(map(ord, task + module)))
        rows = torch.randn(3 * SMALL_IN, SMALL_IN, generator=generator, dtype=torch.float64)
        return rows.T @ rows / len(rows)


SMALL_OUT, SMALL_IN, SMALL_RANK = 6, 10, 2
SMALL_FEATURES = SmallFeatures()


def small_adapters(pool: str) -> list[Adapter]:
    """Random adapters of the fake pool's tasks and modules; the first column of one module is zero in all of them."""
    generator = torch.Generator().manual_seed(len(pool))
    modules = FakeWorkbench().modules(pool)

    def update(module: str) -> LowRank:
        A = torch.randn(SMALL_RANK, SMALL_IN, generator=generator)
        A[:, 0] *= module != modules[0]
        return LowRank(torch.randn(SMALL_OUT, SMALL_RANK, generator=generator), A)

    return [Adapter(task, {module: update(module) for module in modules}, task=task, base="small") for task in TITLES]
