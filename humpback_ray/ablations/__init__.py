"""Ablations: the run again with one thing changed at a time, sharing what they have in common."""
