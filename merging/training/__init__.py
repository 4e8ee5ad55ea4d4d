"""Fine-tuning a LoRA adapter, or everything, on one task."""
