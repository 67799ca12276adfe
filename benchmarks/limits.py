"""The floor under a training step of each of the lesson's models on this machine.

    python benchmarks/limits.py --data FOLDER

What is counted is said in minirnn/bench/limits.py; the same as `minirnn bench limits`.
"""

import sys

from minirnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "limits", *sys.argv[1:]]))
