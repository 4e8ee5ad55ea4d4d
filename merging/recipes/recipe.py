"""Recipe: a merge as text. YAML in, the same merge out, bit for bit."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..adapters.adapter import Adapter
from ..engine import merge
from ..errors import MergeError
from ..methods import METHODS
from ..plugins.decouple import Decouple
from ..plugins.orthogonalize import Orthogonalize
from ..plugins.soft_osrm import SoftOSRM

if TYPE_CHECKING:
    from ..engine import Merged
    from ..features.moments import Features


class AdapterEntry(BaseModel):
    """One adapter of a recipe: where it is (an absolute path, two files, ``user/name@commit``), what the caller said about it, its weight.

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


class Recipe(BaseModel):
    """A merge: adapters, method, parameters, plug-ins (none named = the method's own), seed, and how to export it.

    ``k`` is the number of texts per task whose features it looks at, where it needs any. It holds no time and no output path, so
    merging from a recipe writes the same recipe again.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    adapters: list[AdapterEntry]
    method: str
    params: dict[str, Any] = Field(default_factory=dict)
    soft_osrm: SoftOSRMEntry | None = None
    orthogonalize: OrthogonalizeEntry | None = None
    decouple: float | DecoupleEntry | None = None
    seed: int = 0
    k: int | None = Field(default=None, ge=1)
    rank: int | None = None
    head: str | None = None
    prefix: str | None = None

    @staticmethod
    def of(merged: Merged, rank: int | None = None, head: str | None = None, prefix: str | None = None) -> Recipe:
        """Describe a merge whose adapters came from files or the hub.

        Raises
        ------
        MergeError
            If an adapter was made in memory: a recipe can only name files.
        """
        entries = []
        for adapter, weight in zip(merged.adapters, merged.weights, strict=True):
            if adapter.origin is None:
                raise MergeError(f"{adapter.name} was not loaded from a file, so a recipe cannot name it: save it first.")
            entries.append(
                AdapterEntry(
                    path=adapter.origin if isinstance(adapter.origin, str) else list(adapter.origin),
                    name=adapter.name,
                    task=adapter.task,
                    base=adapter.base if adapter.base_vouched else None,
                    fingerprint=adapter.fingerprint,
                    license=adapter.source.get("license"),
                    weight=weight if isinstance(weight, float) else dict(weight),
                )
            )
        soft, ortho, magnitude = merged.plugins.soft_osrm, merged.plugins.orthogonalize, merged.plugins.decouple
        looks_at_texts = soft is not None or "data" in merged.method.needs
        return Recipe(
            adapters=entries,
            method=merged.method.name,
            params=merged.params,
            soft_osrm=None if soft is None else SoftOSRMEntry(mu=soft.mu, ridge=soft.ridge),
            orthogonalize=OrthogonalizeEntry(mode=ortho.mode, penalty=ortho.penalty, steps=ortho.steps),
            decouple=DecoupleEntry(**asdict(magnitude)) if not magnitude.follows_strength else magnitude.strength,
            seed=merged.seed,
            k=merged.features.k if merged.features is not None and looks_at_texts else None,
            rank=rank,
            head=head,
            prefix=prefix,
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
    def magnitude(self) -> Decouple | None:
        """The decouple plug-in; None = the method's own."""
        if isinstance(self.decouple, DecoupleEntry):
            return Decouple(**self.decouple.model_dump())
        return None if self.decouple is None else Decouple(self.decouple)

    def load_adapters(self) -> list[Adapter]:
        """Read the adapters from where they are.

        Raises
        ------
        MergeError
            If one is missing, refused, or not the file that the recipe was made with.
        """
        adapters = []
        for entry in self.adapters:
            adapter = Adapter.load(entry.path, name=entry.name, task=entry.task, base=entry.base)
            if entry.fingerprint and adapter.fingerprint != entry.fingerprint:
                raise MergeError(f"{entry.path} has changed since the recipe was written: its content is another one.")
            adapters.append(adapter)
        return adapters

    def merge(self, features: Features | None = None) -> Merged:
        """Do the merge."""
        soft, ortho = self.soft_osrm, self.orthogonalize
        if self.method in METHODS:
            METHODS[self.method].check(self.params)  # a parameter must not pass for another argument of merge
        return merge(
            self.load_adapters(),
            self.method,
            weights=[entry.weight for entry in self.adapters],
            seed=self.seed,
            features=features,
            soft_osrm=None if soft is None else SoftOSRM(soft.mu, soft.ridge),
            orthogonalize=None if ortho is None else Orthogonalize(ortho.mode, ortho.penalty, ortho.steps),
            decouple=self.magnitude,
            **self.params,
        )
