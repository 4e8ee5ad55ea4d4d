"""Recipe: a merge as text. YAML in, the same merge out, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..adapters.adapter import Adapter
from ..errors import MergeError
from ..plugins.decouple import Decouple
from ..plugins.orthogonalize import Orthogonalize
from ..plugins.soft_osrm import SoftOSRM
from .spec import K, MergeSpec


class AdapterEntry(BaseModel):
    """One adapter of a recipe: where it is (an absolute path, two files, ``user/name@commit``), what the caller said
    about it, its weight.

    ``license`` is what the hub says; it changes nothing.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    path: str | list[str]
    name: str | None = None
    task: str | None = None
    base: str | None = None
    fingerprint: str | None = None
    license: str | None = None
    weight: float | dict[str, float] = 1.0


class OrthogonalizeEntry(BaseModel):
    """The orthogonalize plug-in of a recipe."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    mode: str
    penalty: float | None = None
    steps: int = 500


class SoftOSRMEntry(BaseModel):
    """The soft OSRM plug-in of a recipe."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    mu: float
    ridge: float


class DecoupleEntry(BaseModel):
    """The decouple plug-in of a recipe, where more than its strength differs from the default."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    strength: float
    granularity: str = "column"
    max_up: float | None = None
    renormalise: bool = False


class TunedEntry(BaseModel):
    """The search that chose a recipe's values: its study, the number of the trial in it, its seed; they change
    nothing.
    """

    model_config = ConfigDict(extra="forbid")

    study: str
    trial: int
    seed: int


class Recipe(BaseModel):
    """A merge: adapters, method, parameters, plug-ins (none named = the method's own), seed, and how to export it.

    ``head`` names the task, or the tasks, whose heads go with it.
    ``dtype`` is that of the files (none named = float32, for a full model the base's own).
    ``exact_svd`` says that a lower rank is the best there is and not a randomised SVD's.
    ``k`` is the number of texts per task whose features it looks at, where it needs any. It holds no time and no output
    path, so merging from a recipe writes the same recipe again.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    adapters: list[AdapterEntry]
    method: str
    params: dict[str, Any] = Field(default_factory=dict)
    soft_osrm: SoftOSRMEntry | None = None
    orthogonalize: OrthogonalizeEntry | None = None
    pico: bool | None = None
    norm_cap: float | None = None
    decouple: float | DecoupleEntry | None = None
    seed: int = 0
    k: int | None = Field(default=None, ge=1)
    rank: int | None = None
    head: str | list[str] | None = None
    prefix: str | None = None
    dtype: str | None = None
    exact_svd: bool | None = None
    tuned: TunedEntry | None = None

    @staticmethod
    def of(
        spec: MergeSpec,
        adapters: Sequence[Adapter],
        rank: int | None = None,
        head: str | Sequence[str] | None = None,
        prefix: str | None = None,
        dtype: str | None = None,
        exact_svd: bool | None = None,
        tuned: TunedEntry | None = None,
    ) -> Recipe:
        """Describe a merge of adapters that came from files or the hub.

        Raises
        ------
        MergeError
            If an adapter was made in memory: a recipe can only name files.
        """
        entries = []
        for adapter, weight in zip(adapters, spec.weights_for(len(adapters)), strict=True):
            if adapter.origin is None:
                raise MergeError(
                    f"{adapter.name} was not loaded from a file, so a recipe cannot name it: save it first."
                )
            entries.append(
                AdapterEntry(
                    path=adapter.origin if isinstance(adapter.origin, str) else list(adapter.origin),
                    name=adapter.name,
                    task=adapter.task,
                    base=adapter.base if adapter.base_vouched else None,
                    fingerprint=adapter.fingerprint,
                    license=adapter.source.get("license"),
                    weight=dict(weight) if isinstance(weight, Mapping) else weight,
                )
            )
        soft, ortho, magnitude = spec.soft_osrm, spec.orthogonalize, spec.decouple
        return Recipe(
            adapters=entries,
            method=spec.method,
            params=spec.values,
            soft_osrm=None if soft is None else SoftOSRMEntry(mu=soft.mu, ridge=soft.ridge),
            orthogonalize=OrthogonalizeEntry(mode=ortho.mode, penalty=ortho.penalty, steps=ortho.steps),
            pico=spec.pico or None,
            norm_cap=spec.norm_cap,
            decouple=magnitude.strength if magnitude.follows_strength else DecoupleEntry(**asdict(magnitude)),
            seed=spec.seed,
            k=spec.k if spec.needs_data else None,
            rank=rank,
            head=head if head is None or isinstance(head, str) else (list(head) if len(head) > 1 else head[0]),
            prefix=prefix,
            dtype=dtype,
            exact_svd=exact_svd,
            tuned=tuned,
        )

    @staticmethod
    def from_yaml(text: str) -> Recipe:
        """Read a recipe.

        Raises
        ------
        MergeError
            With one sentence, for text that is no YAML or no recipe.
        """
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise MergeError(f"The recipe is not valid YAML: {' '.join(str(error).split())}.") from error
        if not isinstance(data, dict):
            raise MergeError("The recipe should be a mapping with adapters and method.")
        try:
            return Recipe.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise MergeError(f"The recipe's {place} is wrong: {first['msg']}.") from error

    def to_yaml(self) -> str:
        """Return the recipe as YAML."""
        return yaml.safe_dump(self.model_dump(exclude_none=True), sort_keys=False, allow_unicode=True)

    @property
    def spec(self) -> MergeSpec:
        """The merge as a value, what the recipe leaves out filled in; raises MergeError for values that make no
        sense."""
        soft, ortho, magnitude = self.soft_osrm, self.orthogonalize, self.decouple
        return MergeSpec.of(
            self.method,
            self.params,
            None if soft is None else SoftOSRM(soft.mu, soft.ridge),
            None if ortho is None else Orthogonalize(ortho.mode, ortho.penalty, ortho.steps),
            Decouple(**magnitude.model_dump()) if isinstance(magnitude, DecoupleEntry) else magnitude,
            [entry.weight for entry in self.adapters],
            self.seed,
            self.k or K,
            self.norm_cap,
            bool(self.pico),
        )

    def load_adapters(self) -> list[Adapter]:
        """Read the adapters from where they are.

        Raises
        ------
        MergeError
            If one is missing, refused, or not the file that the recipe was made with.
        """
        return [self.load_adapter(place) for place in range(len(self.adapters))]

    def load_adapter(self, place: int) -> Adapter:
        """Read one of them, see `load_adapters`."""
        entry = self.adapters[place]
        adapter = Adapter.load(entry.path, name=entry.name, task=entry.task, base=entry.base)
        if entry.fingerprint and adapter.fingerprint != entry.fingerprint:
            raise MergeError(f"{entry.path} has changed since the recipe was written: its content is another one.")
        return adapter
