"""What a folder or file is that is no PEFT adapter: the format by its name, and where the adapter is."""

from __future__ import annotations

import re
from pathlib import Path

CONFIG = "adapter_config.json"
FORMATS = {
    "pytorch_lora_weights.safetensors": "holds a diffusers LoRA",
    "pytorch_lora_weights.bin": "holds a diffusers LoRA",
    "adapters.safetensors": "holds an MLX adapter",
    "adapters.npz": "holds an MLX adapter",
    "lora.safetensors": "holds a mistral-finetune LoRA",
    "adapter_model.safetensors.index.json": "holds weights in several files (shards)",
    "pytorch_adapter.bin": "holds an adapter of the adapters library",
    "adapter_0.pt": "holds a torchtune checkpoint",
    "adapter_model.pt": "holds weights under a name that PEFT does not read",
}
"""Formats by the file that gives them away."""
ADVICE = "not an adapter in PEFT's format: convert it to adapter_config.json and adapter_model.safetensors first."


def explained(place: Path) -> str | None:
    """Return the rest of a sentence that begins with the place's name; None where nothing is known of it."""
    if place.is_file():
        return _file(place)
    entries = sorted(path.name for path in place.iterdir())
    if CONFIG not in entries and (inside := _folders(place)):
        one = inside[0] if len(inside) == 1 else f"one of {', '.join(inside[:4])}{' ..' if len(inside) > 4 else ''}"
        return f"has no {CONFIG}; the adapter is in {one}: give that folder."
    reason = next((FORMATS[name] for name in entries if name in FORMATS), None)
    if gguf := [name for name in entries if name.endswith(".gguf")]:
        reason = f"holds a GGUF file ({gguf[0]})"
    weights = [name for name in entries if name.endswith((".safetensors", ".bin", ".pt"))]
    if reason or not weights:
        return f"{reason}, {ADVICE}" if reason else None
    if CONFIG in entries:
        return f"has no adapter_model.safetensors but {weights[0]}: call it so if it holds the adapter's weights."
    if "config.json" in entries:
        return "is a whole model, no adapter: give the adapter's folder, and the model as --base."
    return next((f"has no {CONFIG}; {name} {reason}" for name in weights if (reason := _file(place / name))), None)


def _folders(place: Path) -> list[str]:
    """Return the folders below that hold an adapter, the latest checkpoint first."""
    found = [path.name for path in place.iterdir() if path.is_dir() and (path / CONFIG).is_file()]
    return sorted(found, key=lambda name: (-int((re.findall(r"\d+", name) or ["0"])[-1]), name))


def _file(path: Path) -> str | None:
    """Tell a LoRA of another tool by the beginning of its safetensors header."""
    if path.suffix == ".gguf":
        return f"is a GGUF file, {ADVICE}"
    if path.suffix != ".safetensors":
        return None
    with path.open("rb") as stream:
        header = stream.read(1 << 16)[8:].decode("utf-8", "replace")
    if "lora_unet_" in header or "lora_te" in header or ".lora_down." in header:
        return f"is a kohya LoRA, {ADVICE}"
    if ".lora_A" in header or ".lora_B" in header:
        return f"is the weights alone: give it together with its {CONFIG}, or the folder that holds both."
    return None
