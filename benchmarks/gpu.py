"""On a GPU, beside PyTorch with cuDNN: the lesson's models, single layers, and their floor.

    python benchmarks/gpu.py --data FOLDER --json gpu.json

What is measured is said in minirnn/bench/gpu.py; the same as `minirnn bench gpu`. It takes less
than eight minutes.
"""

import sys

from minirnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "gpu", *sys.argv[1:]]))
