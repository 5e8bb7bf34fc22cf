"""Published rules for the quality of texts, and ours for their form: a table for each set.

`rules.py` applies them; every rule has a separate outcome.
"""
