"""The results of several worlds in one table, with the errors between worlds.

python benchmarks/proof/table.py runs/proof-11/proof.json runs/proof-12/proof.json ... --to FOLDER
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # In place of this folder, whose modules would hide others of the same names.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from benchmarks.proof.results import main

    main()
