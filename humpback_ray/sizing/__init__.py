"""Arithmetic on models and GPUs. Neither Ray nor torch."""
