"""A base model that is at hand (a folder, or in the hub's cache): what its modules are called today, and single tensors
of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import MergeError
from .names import owner_of, weight_of

TASK_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}
"""transformers' class by PEFT's task type; where there is none, the base's own configuration names it."""
UNBUILDABLE = (OSError, ValueError, KeyError, ImportError, StrictDataclassError)
"""What transformers raises for configurations that it does not know or cannot read: then nothing is known of the base.
"""


@dataclass(frozen=True, eq=False)
class BaseFiles:
    """A base model's folder and its architecture without weights.

    Attributes
    ----------
    folder : in the hub's layout
    model : on the meta device, of the class that the adapter was trained in
    """

    folder: Path
    model: nn.Module

    @property
    def prefix(self) -> str:
        """What the class puts before the names of its bare encoder ("bert."); "" for a bare encoder."""
        prefix = self.architecture_prefix
        return prefix if prefix and isinstance(getattr(self.model, prefix[:-1], None), nn.Module) else ""

    @property
    def architecture_prefix(self) -> str:
        """What the architecture's classes with a head put before the names of the encoder, whether this one does or
        not.
        """
        prefix = str(getattr(self.model, "base_model_prefix", "") or "")
        return f"{prefix}." if prefix else ""

    @cached_property
    def modules(self) -> frozenset[str]:
        """Names of all modules."""
        return frozenset(name for name, _ in self.model.named_modules(remove_duplicate=False))

    def own_parameters(self, module: str) -> list[str]:
        """Return the names of the parameters that stand in a module itself, in its order; none if there is no such
        module.
        """
        return (
            [name for name, _ in self.model.get_submodule(module).named_parameters(recurse=False)]
            if (module in self.modules)
            else []
        )

    @cached_property
    def parameters(self) -> Mapping[str, Tensor]:
        """Parameters by every name that they have; tied ones are one tensor under several."""
        return dict(self.model.named_parameters(remove_duplicate=False))

    def todays(self, parameter: str) -> str | None:
        """Return today's full name of a parameter, renamed as transformers does when it loads old files.

        Returns
        -------
        The same name for one that transformers fuses with others today (experts), which PEFT converts by itself; None
        for an unknown one.
        """
        if parameter in self.parameters or parameter.rpartition(".")[0] in self.modules:
            return parameter
        if self.fuses(parameter):
            return parameter
        name, _ = _rename(parameter, *self._rules, self.model, self._state)
        return name if name in self.parameters or name.rpartition(".")[0] in self.modules else None

    def fuses(self, parameter: str) -> bool:
        """Tell whether today's model has an old parameter (one expert's matrix) as a part of a larger tensor only."""
        return parameter not in self.parameters and _rename(parameter, *self._rules, self.model, self._state)[1]

    def check_modules(self, names: Collection[str], called: str) -> None:
        """Raise MergeError for a module that the base does not have: PEFT would load the file and do nothing there.

        Parameters
        ----------
        names : full names
        called : how messages call the base
        """
        # a bare encoder's names, and those under a head that the base's files lack, are as good
        prefix = self.architecture_prefix
        bare = {name.removeprefix(prefix) for name in self.modules if name.startswith(prefix)}
        topped = set() if self.prefix else {prefix + name for name in self.modules}
        places = {owner_of(name) for name in names}
        known = {owner_of(name) for name in names if self.todays(weight_of(name)) == weight_of(name)}
        if known < places and not places <= bare and not places - known <= topped:
            missing = min(places - known)
            raise MergeError(
                f"{called} has no module {missing!r}, so PEFT would load the file and change nothing there: the "
                "adapters are of another model, or of another version of transformers; name their base with --base, or "
                "base=."
            )

    @cached_property
    def _rules(self) -> tuple[list[Any], list[Any]]:
        return conversion_rules(self.model)

    @cached_property
    def _state(self) -> Mapping[str, Tensor]:
        return self.model.state_dict()

    @cached_property
    def _keys(self) -> dict[str, tuple[Path, str]]:
        """{parameter: (file, key)} of what is stored."""
        found: dict[str, tuple[Path, str]] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                with safe_open(path, framework="pt") as opened:
                    keys = list(opened.keys())
            except (SafetensorError, OSError):
                continue
            found |= {name: (path, key) for name, key in parameter_keys(keys, self.model).items() if name not in found}
        return found

    def stored(self, parameter: str) -> Tensor | None:
        """Return a parameter's value; None where the files hold none (pickled, elsewhere, added later)."""
        tensor = self.parameters.get(parameter)
        names = [parameter] + [
            name for name, other in self.parameters.items() if tensor is not None and other is tensor
        ]
        place = next((self._keys[name] for name in names if name in self._keys), None)
        if place is None:
            return None
        with safe_open(place[0], framework="pt") as opened:
            value: Tensor = opened.get_tensor(place[1])
        return value


def base_files(name: str, task_type: str | None = None) -> BaseFiles | None:
    """Return a base that is at hand: ``name`` is a folder, or its snapshot lies in the hub's cache; None otherwise, and
    where transformers cannot build it."""
    folder = _folder(name)
    config = folder / "config.json" if folder else None
    if folder is None or config is None or not config.is_file():
        return None
    return _built(str(folder.resolve()), config.stat().st_mtime_ns, str(task_type))


def _folder(name: str) -> Path | None:
    try:
        if not name or (path := Path(name).expanduser()).is_dir():
            return path if name else None
        if name.count("/") > 1 or name.startswith(("/", ".")):
            return None
        from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - pulls in an HTTP client

        found = try_to_load_from_cache(name, "config.json")
    except (OSError, ValueError):  # a text that no path and no id can be
        return None
    return Path(found).parent if isinstance(found, str) else None


@lru_cache(maxsize=8)
def _built(folder: str, _changed: int, task_type: str) -> BaseFiles | None:
    try:
        return BaseFiles(Path(folder), empty_model(Path(folder), task_type))
    except UNBUILDABLE:
        return None


def empty_model(folder: Path, task_type: str | None = None) -> nn.Module:
    """Return the model in ``folder`` on the meta device: of the task's class, else of the one that its configuration
    names.

    Raises
    ------
    OSError, ValueError and others of `UNBUILDABLE`
        If transformers cannot build it.
    """
    import transformers  # noqa: PLC0415 - takes seconds

    config: Any = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    named = (getattr(config, "architectures", None) or [""])[0]
    own = getattr(transformers, str(named), None)
    with torch.device("meta"):
        if task_type in TASK_CLASSES:
            try:
                model: nn.Module = getattr(transformers, TASK_CLASSES[task_type]).from_config(
                    config, trust_remote_code=False
                )
                return model.eval()
            except ValueError:  # the architecture has no such class: it may have one of its own for the task
                pass
        if isinstance(own, type) and issubclass(own, transformers.PreTrainedModel):
            model = own._from_config(config)  # type: ignore[attr-defined]
        else:
            model = transformers.AutoModel.from_config(config, trust_remote_code=False)
    return model.eval()


def parameter_keys(keys: Iterable[str], model: nn.Module) -> dict[str, str]:
    """Return {parameter of ``model``: key}, renamed as transformers itself does it when it loads files; fused ones are
    left out.
    """
    rules = conversion_rules(model)
    known = model.state_dict()
    found: dict[str, str] = {}
    for key in keys:
        name, fused = _rename(key, *rules, model, known)
        if name not in known:  # stored under today's name already
            name, fused = _rename(key, [], [], model, known)
        if name in known and not fused:  # a converted tensor is a part of others, which no update of a module fits
            found.setdefault(name, key)
    return found


def conversion_rules(model: nn.Module) -> tuple[list[Any], list[Any]]:
    """Return transformers' own (renamings, fusions) of the keys of older files."""
    from transformers.conversion_mapping import get_model_conversion_mapping  # noqa: PLC0415 - takes seconds
    from transformers.core_model_loading import WeightRenaming  # noqa: PLC0415

    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    return renamings, [rule for rule in rules if not isinstance(rule, WeightRenaming)]


def _rename(
    key: str, renamings: list[Any], converters: list[Any], model: nn.Module, known: Mapping[str, Tensor]
) -> tuple[str, bool]:
    from transformers.core_model_loading import rename_source_key  # noqa: PLC0415 - takes seconds

    name, converter = rename_source_key(key, renamings, converters, model.base_model_prefix, known)
    return name, converter is not None
