"""The arguments of the command `minirnn`: what it takes, and what `--help` says of it."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import minirnn
from minirnn.backend import BACKENDS
from minirnn.bench import main as bench_main
from minirnn.classifier import RECIPES
from minirnn.data import ag_news
from minirnn.data.stream import SHUFFLE_BUFFER
from minirnn.lines import LONGEST

DATA_HELP = (
    "where the news come from: a folder with train.csv and test.csv of AG News; 'tfds', to have "
    "TensorFlow Datasets download it; or 'sample', generated toy news. Default: the folder in the "
    f"environment variable {ag_news.ENVIRONMENT_VARIABLE}, else what tfds has prepared, else the "
    "sample"
)


def make_parser(run: Mapping[str, Callable[[Any], int]]) -> argparse.ArgumentParser:
    """The parser. run: name of a command → the function that does it, as `args.run`."""
    parser = argparse.ArgumentParser(
        prog="minirnn",
        description="Recurrent networks by hand: train and use a news classifier.",
        epilog="`minirnn COMMAND --help` shows the options and examples of a command.",
    )
    parser.add_argument("--version", action="version", version=f"minirnn {minirnn.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, summary: str, more: str, examples: str) -> Any:
        made = commands.add_parser(
            name,
            help=summary,
            description=textwrap.fill(f"{summary[0].upper()}{summary[1:]}. {more}", 79),
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(run=run[name])
        return made

    add_train_options(
        command(
            "train",
            "train a news classifier and show how well it does",
            "",
            "  minirnn train\n"
            "  minirnn train --model bilstm --data ag_news_csv --save bilstm.mrnn\n"
            "  minirnn train --model lstm --take 10000 --epochs 3 --backend auto\n"
            "  mpiexec -n 2 minirnn train --model bilstm --checkpoint bilstm.checkpoint",
        )
    )

    made = command(
        "evaluate",
        "show how well a saved model does on the test rows",
        "",
        "  minirnn evaluate bilstm.mrnn\n  minirnn evaluate bilstm.mrnn --data ag_news_csv",
    )
    add_model(made)
    made.add_argument("--data", metavar="WHERE", help=DATA_HELP)
    add_backend_option(made)

    made = command(
        "predict",
        "print the class of each text",
        "One line a text: its class, the probability of that class, and the text. Lines of "
        "standard input are answered as they come, in their order and in bounded memory; one of "
        f"more than {LONGEST:,} bytes is an error. The models without a mask (rnn-title, lstm) "
        "take padding for words, so that what they say of a text depends a little on the other "
        "texts that are answered with it.",
        '  minirnn predict bilstm.mrnn "Oil prices rise" "Striker scores twice"\n'
        "  minirnn predict bilstm.mrnn < headlines.txt\n"
        "  tail -n 5 headlines.txt | minirnn predict bilstm.mrnn --json",
    )
    add_model(made)
    made.add_argument(
        "texts", metavar="TEXT", nargs="*", help="a text; without any, each line of standard input"
    )
    made.add_argument(
        "--json", action="store_true", help="one JSON object a line, with all probabilities"
    )
    add_backend_option(made)

    made = command(
        "explain",
        "show token by token what a saved model makes of a text",
        "How much each token matters is the length of the gradient of the class's log probability "
        "at its vector; the largest is 1. --html writes a page to step through: gates, states, "
        "equations with their numbers, and the gradients on their way back.",
        '  minirnn explain bilstm.mrnn "Striker wins the cup final"\n'
        '  minirnn explain bilstm.mrnn "Striker wins the cup final" --html final.html',
    )
    add_model(made)
    made.add_argument("texts", metavar="TEXT", nargs="*", help="the text, in quotes")
    made.add_argument("--html", metavar="PATH", help="write a page into this file")
    made.add_argument(
        "--target", metavar="CLASS", help="the class to explain (default: the one predicted)"
    )
    add_backend_option(made)

    made = command(
        "gradcheck",
        "compare all gradients with finite differences",
        "One line a case; exit code 1 if a gradient is wrong.",
        "  minirnn gradcheck\n  minirnn gradcheck LSTM",
    )
    made.add_argument(
        "part", metavar="PART", nargs="?", default="", help="only cases with this in their name"
    )

    made = command(
        "bench",
        "time minirnn beside the libraries that are installed",
        "Each library in a process of its own, in turn, over the same batches.",
        "  minirnn bench\n  minirnn bench steps inference limits --data FOLDER --json figures.json",
    )
    bench_main.add_arguments(made, positive)
    return parser


def add_train_options(parser: argparse.ArgumentParser) -> None:
    """The options of `minirnn train`."""
    models = "; ".join(f"{name}: {recipe.about}" for name, recipe in RECIPES.items())
    epochs = ", ".join(f"{name} {recipe.sample_epochs}" for name, recipe in RECIPES.items())
    batch_sizes = ", ".join(f"{name} {recipe.batch_size}" for name, recipe in RECIPES.items())
    add = parser.add_argument
    add("--model", choices=RECIPES, default="rnn", help=f"{models} (default: %(default)s)")
    add("--data", metavar="WHERE", help=DATA_HELP)
    add(
        "--epochs",
        type=positive,
        metavar="N",
        help=f"passes over the training rows (default: 1; on the sample: {epochs})",
    )
    add(
        "--batch-size",
        type=positive,
        metavar="N",
        help=f"rows in a training step (default: {batch_sizes})",
    )
    add(
        "--stream",
        action="store_true",
        help="leave the training rows in their files, which need not fit into memory: --data names "
        "a folder with train.csv or shards of it (train-00000.csv, train-00000.array_record, ...), "
        "or is a pattern such as 'news/train-*.csv'; test rows come from the same folder",
    )
    add(
        "--shuffle-buffer",
        type=positive,
        default=SHUFFLE_BUFFER,
        metavar="N",
        help="rows of a stream that are in memory, and shuffled, at a time (default: %(default)s)",
    )
    add("--take", type=positive, metavar="N", help="train on the first N rows only")
    add(
        "--seed",
        type=not_negative,
        default=0,
        metavar="N",
        help="of the first weights and the order of the rows (default: %(default)s)",
    )
    add_backend_option(parser)
    add("--save", metavar="PATH", help="write the trained model into this file")
    add(
        "--checkpoint",
        metavar="PATH",
        help="write the state of the training into this file as it goes; if the file is there "
        "already, go on from it, as if there had been no break",
    )
    add(
        "--checkpoint-every",
        type=positive,
        metavar="N",
        help="steps from one checkpoint to the next (default: a minute, and each epoch)",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="MODEL", help="a file that `minirnn train --save` wrote")


def add_backend_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        help="compute with NumPy, with CuPy on a GPU, or with whichever works best here (default: "
        "the environment variable MINIRNN_BACKEND, else numpy)",
    )


def positive(text: str) -> int:
    return whole_number(text, 1)


def not_negative(text: str) -> int:
    return whole_number(text, 0)


def whole_number(text: str, least: int) -> int:
    if not text.strip().isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(
            f"expected a whole number of at least {least}, received {text!r}"
        )
    return int(text)
