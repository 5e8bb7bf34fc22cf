"""The user's mistakes, told apart from ours."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake of the user's, or a machine or store that cannot do what a recipe asks for.

    The message is one line: the value, the rule, the way out. Only our own raise sites raise it, so
    every other exception is a bug and keeps its traceback.
    """
