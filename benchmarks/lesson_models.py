"""Training steps and predictions of the lesson's models, beside the peers that are installed.

    python benchmarks/lesson_models.py --data FOLDER [PART ...] [--json FILE]

The same as `minirnn bench`, whose `--help` lists the parts and options.
"""

import sys

from minirnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
