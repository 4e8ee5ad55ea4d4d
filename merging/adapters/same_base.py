"""Are these adapters updates of one base model? Names are compared as people write them, and what they leave open is
said.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from .adapter import Adapter

QUANTIZED = re.compile(
    r"[-_.](unsloth[-_]bnb[-_]4bit|bnb[-_][48]bit(s)?|[48][-_]?bits?|int[48]|nf4|fp8(-dynamic)?|"
    r"gptq([-_]int[48]|[-_][48]bit)?|awq([-_]int4)?|gguf|exl2|hqq|aqlm|w[48]a(16|8))([-_]\d+g)?(?=$|[-_.])",
    re.IGNORECASE,
)
"""What a repository's name says of how its weights were compressed; the model is the one without it."""
CACHED = re.compile(r"(?:^|/)models--([^/]+)(?:/|$)")
"""A model's folder in the cache of the hub: models--owner--name/snapshots/commit."""
MIRRORS = frozenset(
    {"unsloth", "nousresearch", "thebloke", "mlx-community", "hugging-quants", "neuralmagic", "redhatai", "bartowski"}
)
"""Owners on the hub who publish others' models under the models' own names."""
CANONICAL = frozenset({"google-bert", "openai-community", "facebookai", "distilbert", "google-t5", "albert", "xlnet"})
"""Owners that the hub gave to models which had none, such as bert-base-uncased."""
SAYS_NOTHING = re.compile(
    r"\W*|(checkpoint|ckpt|step|epoch|iter|run|model|version|v)?[-_]?\d*|.*[-_]?checkpoint[-_]?\d*|([0-9a-f]{7,64})|"
    r"(full|hf|my|the|llm|base|merged|final|best|last|latest|main|sft|dpo|trained|pretrained|finetuned|tuned|"
    r"foundation|local|new|old|tmp|test|out|output|outputs|result|results|weights|saved|save|export|exported|"
    r"download|downloaded|snapshot|model|models|checkpoint|checkpoints|lora|adapter)([-_. ]?("
    r"full|hf|model|models|base|merged|final|best|last|dir|folder|path|weights|out|output|\d+))*",
    re.IGNORECASE,
)
"""Last parts of a local path that many models share."""


@dataclass(frozen=True)
class BaseName:
    """A base model's name, taken apart.

    Attributes
    ----------
    model : the last component without what says how it is compressed, lower case; "" = nobody says
    owner : on the hub, lower case; "" for a local path, and for a model that has none
    local : the path, where it is one
    quantized : the name says that the weights are compressed
    """

    model: str
    owner: str = ""
    local: str = ""
    quantized: bool = False

    @property
    def says_nothing(self) -> bool:
        """Whether its last part is one that many models share (checkpoint-500, merged, model ..)."""
        return not self.owner and SAYS_NOTHING.fullmatch(self.model) is not None


def parse_base(name: str) -> BaseName:
    """Take a base model's name apart, a hub id or a path."""
    path = name.strip().replace("\\", "/").rstrip("/")
    if cached := CACHED.search(path):
        path = cached[1].replace("--", "/", 1)
    parts = [part for part in path.split("/") if part]
    on_hub = len(parts) <= 2 and not re.match(r"[/.~]|[A-Za-z]:", path)
    last = parts[-1] if parts else ""
    model = QUANTIZED.sub("", last)
    model = re.sub(r"[-_]hf$", "", model.lower()).replace("_", "-")
    model = re.sub(r"^meta-(?=(code)?llama)", "", model)
    owner = parts[0].lower() if on_hub and len(parts) == 2 else ""
    return BaseName(model, owner, "" if on_hub else str(PurePosixPath(path)), QUANTIZED.search(last) is not None)


def base_key(name: str) -> str:
    """Return what two spellings of one base model's name have in common: the last path component, lower case."""
    cached = CACHED.search(name.replace("\\", "/"))
    path = cached[1].replace("--", "/", 1) if cached else name.replace("\\", "/")
    return path.rstrip("/").rsplit("/", 1)[-1].lower()


def doubt(first: str, second: str) -> str | None:
    """Compare two names of a base model: "" = one model, a text = one model as far as can be said and what is open,
    None = two models.
    """
    if not first or not second:
        return f"records {'no base' if not (first or second) else 'a base that the other does not'}"
    if first == second:
        loose = parse_base(first).says_nothing and not re.match(r"/|[A-Za-z]:", first)
        return "names its base by a place that says nothing, the same" if loose else ""
    a, b = parse_base(first), parse_base(second)
    strangers = bool(a.owner and b.owner and a.owner != b.owner and not {a.owner, b.owner} & MIRRORS)
    if a.local and a.local == b.local:
        return ""
    if a.says_nothing or b.says_nothing or a.model != b.model or strangers:
        return None
    ownerless = not (a.owner and b.owner) and {a.owner, b.owner} - CANONICAL - {""}
    said = {
        "was trained on compressed weights of the same model": a.quantized != b.quantized,
        "names a folder that is taken for the same model by its last part": a.local != b.local,
        "names the same model without its owner": bool(ownerless),
    }
    return next((words for words, holds in said.items() if holds), "")


def used_base(adapters: Sequence[Adapter], used: str) -> tuple[str, str]:
    """Return (name of the base that a model is really made of, a sentence if the adapters record another one, else "").

    Parameters
    ----------
    used : the hub id or folder of the weights
    """
    first = adapters[0]
    recorded = str(first.config.get("base_model_name_or_path") or first.base)
    if not recorded:
        return used, f"The adapters record no base; {used} was given."
    if doubt(recorded, used) is not None:
        return recorded, ""
    return (
        used,
        f"{first.name} records the base {recorded}, but the weights are those of {used}, as given: is it the same "
        "model?",
    )


def problems_of(adapters: Sequence[Adapter]) -> list[str]:
    """Return what keeps ``adapters`` from being merged, a sentence each; cheap, unlike the warnings."""
    # a wrong prefix is why nothing is in common
    names = _prefix_problems(adapters) or _common_problems(adapters)
    return _base_problems(adapters) + [why for _, why in shape_problems(adapters)] + names


def base_warnings(adapters: Sequence[Adapter]) -> list[str]:
    """Return what the recorded bases leave open, and how far the caller's word goes, a sentence each."""
    warnings = []
    overruled: dict[tuple[str, str], list[str]] = {}
    for adapter in adapters:
        recorded = str(adapter.config.get("base_model_name_or_path") or "")
        if adapter.base_vouched and recorded and doubt(recorded, adapter.base) != "":
            overruled.setdefault((recorded, adapter.base), []).append(adapter.name)
    for (recorded, base), those in overruled.items():
        warnings.append(
            f"{', '.join(those)}: the recorded base is {recorded}, but {base} counts, as you say: is it the same model?"
        )
    if len(adapters) > 1 and not any(adapter.base or adapter.base_fingerprint for adapter in adapters):
        warnings.append(
            "No adapter records its base: that they share one is an assumption; name it (base=, --base) to be sure."
        )
    pairs = [(a, b) for a, b in itertools.combinations(adapters, 2) if not _both_fingerprints(a, b)]
    for first, other in pairs:
        if first.base and other.base and (said := doubt(first.base, other.base)):
            odd = other if parse_base(other.base).quantized or parse_base(other.base).local else first
            calm = first if odd is other else other
            warnings.append(f"{odd.name} ({odd.base}) {said} that {calm.name} records ({calm.base}).")
    silent = [a for a in adapters if not a.base]
    if silent and len(silent) < len(adapters):
        named = next(a for a in adapters if a.base)
        names = ", ".join(a.name for a in silent)
        warnings.append(f"{names} records no base: that it is {named.base}, as {named.name} says, is an assumption.")
    revisions = {str(a.config.get("revision") or "main"): a.name for a in reversed(adapters)}
    if len(revisions) > 1:
        listed = ", ".join(f"{revision} in {name}" for revision, name in revisions.items())
        warnings.append(
            f"The adapters were trained on different revisions of the base ({listed}): check that its weights are the "
            "same."
        )
    return warnings


def _both_fingerprints(first: Adapter, other: Adapter) -> bool:
    return bool(first.base_fingerprint and other.base_fingerprint)


def _base_problems(adapters: Sequence[Adapter]) -> list[str]:
    problems = []
    for first, other in itertools.combinations(adapters, 2):
        same = (
            first.base_fingerprint == other.base_fingerprint
            if _both_fingerprints(first, other)
            else doubt(first.base, other.base) is not None
        )
        if not same:
            nothing = next((a for a in (first, other) if parse_base(a.base).says_nothing), None)
            why = (
                f"the path {nothing.base!r} does not say which model it is"
                if nothing
                else "updates of different models cannot be added"
            )
            problems.append(
                f"{first.name} and {other.name} have different base models ({first.base or 'none recorded'} and "
                f"{other.base or 'none recorded'}): {why}; if you know that they share one, say so with --base, or "
                "Adapter.load(.., base=)."
            )
    return problems


def shape_problems(adapters: Sequence[Adapter]) -> list[tuple[str, str]]:
    """Return (module, sentence) for every shape that is not the one of an adapter before."""
    shapes: dict[str, tuple[str, tuple[int, int]]] = {}
    problems = []
    for adapter in adapters:
        for module, update in adapter.deltas.items():
            owner, shape = shapes.setdefault(module, (adapter.name, update.shape))
            if shape != update.shape:
                why = f"{module} is {shape} in {owner} but {update.shape} in {adapter.name}: they belong to different "
                problems.append((module, f"{why}base models."))
    return problems


def _prefix_problems(adapters: Sequence[Adapter]) -> list[str]:
    """Notice modules that are the same but for a prefix: PEFT would load such an adapter and do nothing."""
    problems = []
    for a, b in itertools.combinations(adapters, 2):
        if set(a.deltas) & set(b.deltas):
            continue
        for long, short in ((a, b), (b, a)):
            pair = next(((x, y) for x in long.deltas for y in short.deltas if x.endswith("." + y)), None)
            if pair:
                problems.append(
                    f"{long.name} calls a module {pair[0]!r} that {short.name} calls {pair[1]!r}: one of them has a "
                    "wrong prefix."
                )
                break
    return problems


def _common_problems(adapters: Sequence[Adapter]) -> list[str]:
    """Notice an adapter that meets no other anywhere: its names are of another model, or there is nothing to merge."""
    problems = []
    for adapter in adapters:
        others = {module for other in adapters if other is not adapter for module in other.deltas}
        if others and adapter.deltas and not others & set(adapter.deltas):
            problems.append(
                f"{adapter.name} has no module in common with the others ({min(adapter.deltas)} here, {min(others)} "
                "there): their names are of different models, or they never meet and one adapter after the other is "
                "what you want."
            )
            break
    return problems
