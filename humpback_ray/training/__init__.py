"""Finetuning with Ray Train and DeepSpeed."""
