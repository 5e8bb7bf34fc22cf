"""Instruction backtranslation (Humpback, arXiv 2308.06259) as a distributed system on Ray."""

__version__ = "0.1.0"
