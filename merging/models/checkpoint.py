"""A base model's files: safetensors shards read tensor by tensor, and the architecture without its weights."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..adapters.base_files import UNBUILDABLE, BaseFiles, empty_model, parameter_keys
from ..adapters.names import expert_of, owner_of
from ..errors import MergeError
from ..io import hub
from .apply import check_fits
from .embedded import EMBEDDED, base_name, model_folder
from .expert_files import Piece, split_experts
from .layers import Expert, fingerprint_of, is_transposed, linear_layers, named_in
from .weight_files import BESIDE_WEIGHTS, INDEX_FILE, SINGLE_FILE, tensor_files, weight_files


@dataclass(frozen=True)
class Checkpoint:
    """A base model on disk.

    Attributes
    ----------
    name : how messages call it
    published : its name on the hub; None for a folder
    folder : of its configuration
    files : {key: safetensors file}, in the files' own order
    keys : {parameter of the bare encoder: key in the files}; they differ by the architecture's prefix, and where
        transformers has renamed layers since (ViT's ``encoder.layer.0.attention.attention.query`` is
        ``layers.0.attention.q_proj`` now)
    skeleton : the bare encoder on the meta device: names, shapes and kinds of layers, no weights
    whole : the model with its head, as the configuration names it; a bare encoder's is the encoder
    """

    name: str
    published: str | None
    folder: Path
    files: Mapping[str, Path]
    keys: Mapping[str, str]
    skeleton: nn.Module
    whole: nn.Module

    @contextmanager
    def opened(self) -> Iterator[Reader]:
        """Give a reader of single tensors; they are views of the files, which are closed at the end."""
        with ExitStack() as stack:
            yield Reader(self, stack)

    @property
    def prefix(self) -> str:
        """What the keys carry before the names of the bare encoder: nothing, or the architecture's prefix."""
        prefix = f"{self.skeleton.base_model_prefix}."
        return prefix if any(key.startswith(prefix) for key in self.keys.values()) else ""

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of the whole model, by every name that they have."""
        return dict(self.whole.named_parameters(remove_duplicate=False))

    @cached_property
    def _whole_keys(self) -> dict[str, str]:
        return parameter_keys(self.files, self.whole)

    def full_name(self, name: str) -> str | None:
        """Return what the whole model calls a parameter that is named relative to the bare encoder, or outside it."""
        return named_in(self.whole, {path: path for path in self.parameters}, name)

    def key(self, name: str) -> str:
        """Return the key of a parameter, named relative to the bare encoder or outside it.

        One expert's matrix has a key in files of older transformers, even where today's model has all experts in one
        tensor.

        Raises
        ------
        MergeError
            If it is not stored, or only as a part of another tensor.
        """
        full = self.full_name(name)
        found = self.keys.get(name) or (self._whole_keys.get(full) if full else None)
        direct = next(
            (
                key
                for key in (name, f"{self.whole.base_model_prefix}.{name}")
                if key in self.files and self._architecture.fuses(key)
            ),
            None,
        )
        if found is None and direct is None:
            raise MergeError(
                f"The weights of {self.name} lack {name!r}: the base is incomplete or of another architecture."
            )
        return found or str(direct)

    @cached_property
    def _architecture(self) -> BaseFiles:
        return BaseFiles(self.folder, self.whole)

    def shared_with(self, name: str) -> list[str]:
        """Return the other full names of a parameter of the whole model that is tied to others."""
        full = self.full_name(name)
        return (
            []
            if full is None
            else [path for path, other in self.parameters.items() if other is self.parameters[full] and path != full]
        )

    def source(self, name: str) -> str:
        """Return the key that holds a parameter's value: its own, or that of one that it is tied to."""
        for candidate in (name, *self.shared_with(name)):
            try:
                return self.key(candidate)
            except MergeError:
                continue
        return self.key(name)

    def transposed(self, modules: Iterable[str]) -> frozenset[str]:
        """Return those of ``modules`` whose weight is stored as (in, out), as GPT-2's are."""
        known = {name: name for name, _ in self.whole.named_modules(remove_duplicate=False)}
        there = [name for name in modules if named_in(self.whole, known, owner_of(name)) is not None]
        layers = linear_layers(self.whole, there, embeddings=True)
        return frozenset(
            name
            for name, layer in layers.items()
            if (layer.turned if isinstance(layer, Expert) else is_transposed(layer))
        )

    def check_separable(self, name: str) -> None:
        """Raise MergeError unless a tied parameter can be given a value of its own by the configuration
        (tie_word_embeddings).
        """
        others = self.shared_with(name)
        config: Any = copy.deepcopy(self.whole.config)
        for part in (config, config.get_text_config()):
            part.tie_word_embeddings = False
        with torch.device("meta"):
            untied = type(self.whole)._from_config(config)  # type: ignore[attr-defined]
            apart = dict(untied.named_parameters(remove_duplicate=False))
        full = str(self.full_name(name))
        if stuck := [other for other in others if other not in apart or apart[other] is apart.get(full)]:
            raise MergeError(
                f"{name} shares its weight with {stuck[0]} in {self.name}: a file cannot change one of them."
            )

    def check(self, shapes: Mapping[str, tuple[int, int]], fingerprints: Collection[str]) -> None:
        """Raise MergeError unless the model has all modules in these (out, in) shapes and is each recorded base."""
        known = {name for name, _ in self.skeleton.named_modules()}
        inside = {name: shape for name, shape in shapes.items() if owner_of(name) in known}
        check_fits(self.skeleton, inside, None)
        tied = _names_by_parameter(self.skeleton)
        for name in inside.keys() - self.pieces(inside).keys():
            if others := tied[id(self.skeleton.get_submodule(name).weight)] - {f"{name}.weight"}:
                raise MergeError(
                    f"{name} shares its weight with {min(others)} in {self.name}: a file cannot change one of them."
                )
        with self.opened() as reader:
            for name in shapes.keys() - inside.keys():
                if not expert_of(name):
                    self._check_known(name)
                stored = tuple(self.weight(name, reader).shape)
                if stored != shapes[name]:
                    raise MergeError(
                        f"{name} is {stored} in the base model but {shapes[name]} in the adapters: it is another base."
                    )
        if fingerprints and set(fingerprints) != {self.fingerprint()}:
            raise MergeError(
                f"{self.name} is not the base that the adapters were trained on (its fingerprint differs from theirs)."
            )

    @cached_property
    def _split_experts(self) -> dict[str, dict[str, Piece]]:
        return split_experts(self.files, self.whole)

    def pieces(self, modules: Iterable[str]) -> dict[str, dict[str, Piece]]:
        """Return {module: {key: what its update has to do with the tensor there}} of those that are single experts.

        Raises
        ------
        MergeError
            If the files hold them in a form that is not known.
        """
        names = [module for module in modules if expert_of(module)]
        turned = self.transposed(names)
        result = {}
        for name in names:
            parameter, number = expert_of(name) or ("", 0)
            if (full := self.full_name(parameter)) is None:
                raise MergeError(
                    f"The base model has no {parameter!r}: the adapter has a wrong prefix or belongs to another model."
                )
            key = self.keys.get(parameter) or self._whole_keys.get(full)
            apart = self._split_experts.get(f"{full}[{number}]", {})
            if key is None and not apart:
                raise MergeError(
                    f"{self.name} holds the experts of {parameter!r} in a form that cannot be written: load it with "
                    "transformers, save it again, and give that folder as the base."
                )
            result[name] = (
                {key: Piece(name, number, name in turned)}
                if key is not None
                else {own: replace(piece, module=name) for own, piece in apart.items()}
            )
        return result

    def weight(self, module: str, reader: Reader) -> Tensor:
        """Return the stored weight of a module, (out, in)."""
        if (pieces := self.pieces([module])) and (own := pieces[module]):
            parts = sorted(own.items(), key=lambda entry: entry[1].part)
            return torch.cat([piece.of(reader.tensor(key)) for key, piece in parts])
        stored = reader.tensor(self.source(f"{module}.weight"))
        return stored.T if self.transposed([module]) else stored

    def _check_known(self, name: str) -> None:
        try:
            self.source(f"{name}.weight")
        except MergeError as error:
            raise MergeError(
                f"The base model has no module {name!r}: the adapter has a wrong prefix or belongs to another model."
            ) from error

    def fingerprint(self) -> str:
        """Return `merging.models.layers.fingerprint` of the stored encoder without loading it."""
        with self.opened() as reader:
            return fingerprint_of(dict(self.skeleton.named_parameters()), lambda name: reader.tensor(self.key(name)))


class Reader:
    """Opens each file of a checkpoint when its first tensor is asked for."""

    def __init__(self, checkpoint: Checkpoint, stack: ExitStack) -> None:
        self._checkpoint, self._stack = checkpoint, stack
        self._open: dict[Path, Any] = {}

    def tensor(self, key: str) -> Tensor:
        """Return a stored tensor."""
        path = self._checkpoint.files[key]
        if path not in self._open:
            self._open[path] = self._stack.enter_context(safe_open(path, framework="pt"))
        tensor: Tensor = self._open[path].get_tensor(key)
        return tensor


def find_checkpoint(source: str | Path) -> Checkpoint:
    """Return the base model at ``source``: "minilm", "smollm2", a folder in the hub's layout, or a hub id (fetched at
    its present commit).

    Raises
    ------
    MergeError
        If nothing is there, the weights are pickled, damaged or quantized, or transformers does not know the
        architecture.
    """
    if source in EMBEDDED:
        published: str | None = base_name(source)
        folder = Path(model_folder(source))
    elif Path(source).is_dir():
        published, folder = None, Path(source)
    elif isinstance(source, str) and hub.BASE_ID.fullmatch(source):
        published, folder = source.partition("@")[0], _fetched(source)
    else:
        raise MergeError(
            f"There is no base model {str(source)!r}: give {' or '.join(EMBEDDED)}, a folder, or a hub id such as "
            "user/name."
        )
    name = published or str(source)
    files = tensor_files(folder, {path.name for path in folder.iterdir()}, name)
    skeleton = _skeleton(folder, name)
    return Checkpoint(
        name, published, folder, files, parameter_keys(files, skeleton), skeleton, _whole(folder, skeleton)
    )


def _fetched(source: str) -> Path:
    repository = hub.look_up(source)
    if "config.json" not in repository.sizes:
        raise MergeError(f"{source} has no config.json: is it a model?")
    chosen = [name for name in ("config.json", *BESIDE_WEIGHTS) if name in repository.sizes]
    folder = repository.download(chosen)["config.json"].parent
    if SINGLE_FILE not in repository.sizes and INDEX_FILE in repository.sizes:
        repository.download([INDEX_FILE])
    repository.download(weight_files(folder, repository.sizes, source))
    return folder


def _skeleton(folder: Path, where: str) -> nn.Module:
    from transformers import AutoConfig, AutoModel  # noqa: PLC0415 - takes seconds

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if getattr(config, "quantization_config", None):
            raise MergeError(f"{where} is quantized: merge into the model that it was made from.")
        with torch.device("meta"):
            skeleton: nn.Module = AutoModel.from_config(config, trust_remote_code=False)
    except MergeError:
        raise
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MergeError(f"{where} is no model that transformers can build: {reason}") from error
    return skeleton


def _whole(folder: Path, skeleton: nn.Module) -> nn.Module:
    try:
        return empty_model(folder)
    except UNBUILDABLE:  # the class with the head needs more than the configuration says
        return skeleton


def _names_by_parameter(model: nn.Module) -> dict[int, set[str]]:
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return names
