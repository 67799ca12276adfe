"""Train a news classifier on AG News and show how well it does.

    python examples/agnews_classifier.py
    python examples/agnews_classifier.py --model bilstm --data FOLDER --save bilstm.mrnn

It loads the news, learns a vocabulary from the first 2,000 titles, builds one of four models,
trains it, and shows its accuracy on the test rows, which classes it takes for which, and what it
makes of a few headlines. Where there is no AG News on the machine, it trains on a generated sample.

This is `minirnn train` with the same options; the work is done in `minirnn/classifier.py`. For the
same models layer by layer, see `examples/lesson.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from minirnn import arguments, cli


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_train_options(parser)
    parser.set_defaults(run=cli.train)
    return cli.run(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
