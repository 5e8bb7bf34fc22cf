"""Benchmarks, one question each, and the proof on a world whose truth is known."""
