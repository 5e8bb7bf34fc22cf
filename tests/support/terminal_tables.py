"""Tables as a terminal shows them."""

from __future__ import annotations

import re


def cells(output: str, name: str) -> list[str]:
    """The cells of the table's row that begins with a name."""
    rows = [re.split("[│┃]", line)[1:-1] for line in output.splitlines()]
    (row,) = [row for row in rows if row and row[0].strip() == name]
    return [cell.strip() for cell in row]
