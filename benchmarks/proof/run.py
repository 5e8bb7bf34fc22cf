"""The proof on one world whose truth is known.

python benchmarks/proof/run.py --world-seed 1 [--short] [--ablations]

The same command resumes what was stopped. Results go to RUN/proof.json, proof.md and proof.html.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # In place of this folder, whose modules would hide others of the same names.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from benchmarks.proof.command import main

    main()
