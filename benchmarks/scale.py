"""Training on several ranks of MPI: one and two measured here, 8 to 1,024 modelled from the parts.

    python benchmarks/scale.py --data FOLDER --json scale.json

What is measured, and what is assumed, is said in minirnn/bench/scale.py; the same as
`minirnn bench scale`. It takes less than three minutes.
"""

import sys

from minirnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "scale", *sys.argv[1:]]))
