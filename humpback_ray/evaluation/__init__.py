"""Comparisons of models: what judges and people say, and how sure that is."""
