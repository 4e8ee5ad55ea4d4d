"""What the core's tests share: tiny random models, adapters in memory, PEFT folders that PEFT itself has written."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import settings
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizerFast,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaForSequenceClassification,
    LlamaModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
)

from merging import METHODS, Adapter, Features, LowRank, Merged, Task, collect_features, merge
from merging.methods import Method

BASE = "tiny-bert"
HIDDEN = 32
WORDS = (
    *("the", "a", "one", "no", "red", "blue", "old", "tall", "cat", "dog"),
    *("bird", "fish", "runs", "sleeps", "eats", "sings", "today", "here", "there", "never"),
)
MODULES = {
    "encoder.layer.0.attention.self.query": (HIDDEN, HIDDEN),
    "encoder.layer.0.attention.self.value": (HIDDEN, HIDDEN),
    "encoder.layer.1.intermediate.dense": (2 * HIDDEN, HIDDEN),
    "encoder.layer.1.output.dense": (HIDDEN, 2 * HIDDEN),
}
QUERY = next(iter(MODULES))

quick = settings(deadline=None, max_examples=15, derandomize=True, database=None)
"""For property tests: few examples, the same ones every time, and no verdict that depends on how busy the machine is.
"""


# -- numbers -----------------------------------------------------------------------------------------------------------


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(seed: int, *shape: int) -> Tensor:
    """Return standard normal numbers, float64."""
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def distance(a: Tensor, b: Tensor) -> float:
    """Return the relative Frobenius distance ||a - b|| / ||b|| (the absolute one where b is zero), in float64."""
    a, b = a.double(), b.double()
    assert a.shape == b.shape
    return float((a - b).norm() / (b.norm() or 1.0))


def furthest(result: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Return the largest `distance` over modules, which must be the same on both sides."""
    assert set(result) == set(expected)
    return max(distance(result[module], expected[module]) for module in expected)


# -- adapters in memory ------------------------------------------------------------------------------------------------


def random_update(seed: int, out: int, inn: int, rank: int, dtype: torch.dtype = torch.float32) -> LowRank:
    return LowRank(gaussian(seed, out, rank).to(dtype), gaussian(seed + 7919, rank, inn).to(dtype))


def random_adapter(
    seed: int,
    ranks: int | Sequence[int] = 4,
    modules: Sequence[str] = tuple(MODULES),
    scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Adapter:
    """Return the adapter ``task-<seed>`` with independent normal factors; ``ranks`` are dealt out to the modules in
    turn.
    """
    ranks = [ranks] if isinstance(ranks, int) else list(ranks)
    deltas = {
        module: random_update(100 * seed + i, *MODULES[module], ranks[i % len(ranks)], dtype) * scale
        for i, module in enumerate(modules)
    }
    return Adapter(f"task-{seed}", deltas, base=BASE)


def mixed_pool(dtype: torch.dtype = torch.float32) -> list[Adapter]:
    """Return five adapters: ranks from 2 to 16, also within an adapter, norms up to ten times apart, partial
    coverage."""
    names = tuple(MODULES)
    return [
        random_adapter(0, 2, scale=0.1, dtype=dtype),
        random_adapter(1, (16, 3), dtype=dtype),
        random_adapter(2, 8, names[:2], 0.3, dtype),
        random_adapter(3, (5, 4, 7), names[1:], dtype=dtype),
        random_adapter(4, 4, names[:1], 0.5, dtype),
    ]


def equal_pool(count: int = 4, dtype: torch.dtype = torch.float32) -> list[Adapter]:
    """Return adapters of one rank and full coverage, which every method accepts."""
    return [random_adapter(i, 4, scale=0.2 + 0.3 * i, dtype=dtype) for i in range(count)]


def with_deltas(adapter: Adapter, change: Callable[[str, LowRank], LowRank]) -> Adapter:
    """Return the adapter with every update changed."""
    deltas = {module: change(module, update) for module, update in adapter.deltas.items()}
    return replace(adapter, deltas=deltas)


def called(adapter: Adapter, name: str) -> Adapter:
    """Return the same update as another adapter of another task."""
    return replace(adapter, name=name, task=name)


def dense(adapter: Adapter) -> dict[str, Tensor]:
    """Return {module: B A}, multiplied out in float64."""
    return {module: update.B.double() @ update.A.double() for module, update in adapter.deltas.items()}


def dense_sum(adapters: Sequence[Adapter], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """Return sum_i w_i B_i A_i by module, in float64."""
    total: dict[str, Tensor] = {}
    for adapter, weight in zip(adapters, weights or [1.0] * len(adapters), strict=True):
        for module, update in dense(adapter).items():
            total[module] = total.get(module, torch.zeros_like(update)) + weight * update
    return total


# -- merging -----------------------------------------------------------------------------------------------------------


def neutral(method: Method) -> dict[str, Any]:
    """Return the arguments with which a method drops, rescales and plugs in nothing."""
    values = {"scaling": 1.0, "density": 1.0, "epsilon": 0.0, "gamma": 0.0, "entries": 10_000}
    return {p.name: values[p.name] for p in method.params if p.name in values} | {
        "orthogonalize": "off",
        "decouple": 0.0,
    }


def merged(
    method: str, adapters: Sequence[Adapter], features: Features, task: str | None = None, **arguments: Any
) -> Merged:
    """Merge, for ``task`` (by default the first adapter's) where the method has one result per task."""
    needs = METHODS[method].needs
    result = merge(adapters, method, features=features if "data" in needs else None, **arguments)
    return result.for_task(task or adapters[0].task) if "task_id" in needs else result


def deltas_of(result: Merged) -> dict[str, Tensor]:
    return {module: result.delta(module) for module in result.modules}


# -- tiny models -------------------------------------------------------------------------------------------------------

_BERT = {
    "vocab_size": 5 + len(WORDS),
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 2 * HIDDEN,
    "max_position_embeddings": 40,
}
_DISTILBERT = {"dim": HIDDEN, "n_layers": 2, "n_heads": 2, "hidden_dim": 2 * HIDDEN}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "share_att_key": True}
_MODELS: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {
    "bert": (BertConfig, BertModel, BertForSequenceClassification, _BERT),
    "roberta": (RobertaConfig, RobertaModel, RobertaForSequenceClassification, _BERT),
    "distilbert": (DistilBertConfig, DistilBertModel, DistilBertForSequenceClassification, _BERT | _DISTILBERT),
    "deberta": (DebertaV2Config, DebertaV2Model, DebertaV2ForSequenceClassification, _BERT | _DEBERTA),
    "llama": (LlamaConfig, LlamaModel, LlamaForSequenceClassification, _BERT | {"pad_token_id": 0}),
}
KINDS = tuple(_MODELS)
QUERY_AND_VALUE = {
    "bert": ["query", "value"],
    "roberta": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "deberta": ["query_proj", "value_proj"],
    "llama": ["q_proj", "v_proj"],
}


def _seeded(make: Callable[[], nn.Module], seed: int, name: str) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make()
    # transformers starts from weights of size 0.02, with which every update would drown the base
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(5.0)
    model.name_or_path = name
    return model.eval().requires_grad_(False)


def tiny_model(kind: str = "bert", seed: int = 0) -> Any:
    """Return a bare random encoder: 32 wide, 2 layers, 2 heads; equal seeds give equal weights."""
    config, bare, _, options = _MODELS[kind]
    return _seeded(lambda: bare(config(**options)), seed, f"tiny-{kind}")


def tiny_classifier(kind: str = "bert", labels: int = 3, seed: int = 0) -> Any:
    """Return the random encoder inside a sequence-classification model."""
    config, _, classifier, options = _MODELS[kind]
    return _seeded(lambda: classifier(config(**options, num_labels=labels)), seed, f"tiny-{kind}")


def tiny_gpt2() -> Any:
    config = GPT2Config(vocab_size=_BERT["vocab_size"], n_embd=HIDDEN, n_layer=1, n_head=2, n_positions=40)
    return _seeded(lambda: GPT2Model(config), 0, "tiny-gpt2")


def tiny_tokenizer() -> BertTokenizerFast:
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
    return BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})


def sentences(seed: int, count: int, longest: int = 9) -> list[str]:
    """Return made-up sentences of different lengths."""
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(1, longest + 1))) for _ in range(count)]


def made_up_task(name: str = "animals", rows: int = 60, classes: int = 2, seed: int = 0) -> Task:
    """Return a task that can be learned: the class of a sentence is the animal in it."""
    animals = WORDS[8 : 8 + classes]
    texts = [f"{text} number{i} {animals[i % classes]}" for i, text in enumerate(sentences(seed, rows, 5))]
    return Task.from_rows(name, texts, [animals[i % classes] for i in range(rows)])


def tokens() -> dict[str, Tensor]:
    """Return a padded batch for the tiny models."""
    batch = tiny_tokenizer()(sentences(99, 4), padding=True, return_tensors="pt")
    return {key: batch[key] for key in ("input_ids", "attention_mask")}


@torch.no_grad()
def hidden(model: nn.Module) -> Tensor:
    """Return the last hidden states of `tokens` (of the encoder inside, for a model with a head)."""
    output = model(**tokens(), output_hidden_states=True)
    return output.hidden_states[-1]


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(**tokens()).logits


def task_features(model: nn.Module, tasks: int, **options: Any) -> Features:
    """Return the features of ``task-0``, ``task-1`` .. at `MODULES`, three made-up sentences each."""
    texts = {f"task-{i}": sentences(i, 3) for i in range(tasks)}
    return collect_features(model, tiny_tokenizer(), texts, k=3, modules=list(MODULES), **options)


@torch.no_grad()
def token_rows(model: nn.Module, texts: Sequence[str], module: str) -> list[Tensor]:
    """Return what enters ``module`` for each text, (tokens, in) float64: one text at a time, so without any padding."""
    seen: list[Tensor] = []
    handle = model.get_submodule(module).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0].double()))
    for text in texts:
        model(**tiny_tokenizer()(text, return_tensors="pt"))
    handle.remove()
    return seen


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model: nn.Module, before: Mapping[str, Tensor]) -> bool:
    """Tell whether names and values of all weights are those of ``before``, bit for bit."""
    after = model.state_dict()
    return list(after) == list(before) and all(torch.equal(after[name], tensor) for name, tensor in before.items())


@contextmanager
def dense_added(model: nn.Module, updates: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """Yield a copy of ``model`` with dense updates added to the weights of modules by full name: the oracle of a
    merge."""
    changed = copy.deepcopy(model)
    for name, update in updates.items():
        weight = changed.get_submodule(name).weight
        weight.data = (weight.data.double() + update.double()).to(weight.dtype)
    yield changed


# -- PEFT folders ------------------------------------------------------------------------------------------------------


def peft_folder(folder: Path, model: nn.Module, seed: int = 0, **options: Any) -> dict[str, Tensor]:
    """Let PEFT write a LoRA adapter with random A and B (and head); return PEFT's own updates by full module name.

    ``options`` are LoraConfig's; heads in modules_to_save get new random values too.
    """
    wrapped = get_peft_model(copy.deepcopy(model), LoraConfig(**({"target_modules": ["query", "value"]} | options)))
    for i, (name, parameter) in enumerate(sorted(wrapped.named_parameters())):
        if parameter.requires_grad:
            scale = 0.02 if "lora_B" in name else 0.2
            parameter.data.copy_(scale * gaussian(1000 * seed + i, *parameter.shape))
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    # PEFT sorts the keys of its JSON, which changes the pattern that matches first: write them in their order again
    edit_config(folder, **{key: options[key] for key in ("rank_pattern", "alpha_pattern") if key in options})
    layers = {
        name: layer for name, layer in wrapped.base_model.model.named_modules() if hasattr(layer, "get_delta_weight")
    }
    return {
        name: layer.get_delta_weight("default").detach() for name, layer in layers.items() if "default" in layer.lora_A
    }


def reloaded(model: nn.Module, folder: Path) -> nn.Module:
    """Return a copy of ``model`` that carries the adapter in ``folder``, as PEFT loads it."""
    return PeftModel.from_pretrained(copy.deepcopy(model), folder).eval()


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(change(tensors), path, metadata={"format": "pt"})


def one_sentence(error: BaseException, *words: str) -> bool:
    """Tell whether the message is one line that ends like a sentence and names every one of ``words``."""
    text = str(error)
    return "\n" not in text and text.endswith((".", ")", "?")) and all(word in text for word in words)
