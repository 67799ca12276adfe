"""The command `minirnn`: train a news classifier, evaluate it, use it, check all gradients.

Exit codes: 0 all went well; 1 a gradient is wrong, or training diverged; 2 bad input, or no room
for output; 130 stopped by Ctrl-C; 141 nobody reads the output any more (`minirnn ... | head`).
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from minirnn import classifier, parallel
from minirnn.arguments import make_parser
from minirnn.backend import get_backend, set_backend, set_random_seed
from minirnn.bench import main as bench_main
from minirnn.checkpoint import Checkpoint, CheckpointError
from minirnn.classifier import RECIPES, ClassifierError
from minirnn.data import ag_news
from minirnn.data.stream import Stream
from minirnn.finite import NonFiniteError
from minirnn.lines import LineError, batches_of, batches_of_lines
from minirnn.saving import FileFormatError


class UsageError(ValueError):
    """Something is wrong with what the user gave; the message says what to do."""


USER_ERRORS = (
    UsageError,
    CheckpointError,
    ClassifierError,
    LineError,
    FileFormatError,
    ag_news.NewsDataError,
    OSError,
    MemoryError,
)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    return run(make_parser(COMMANDS), argv)


def run(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Parse the arguments and call `args.run(args)`; errors of users become one line each."""
    args = parse(parser, argv)

    def complain(kind: str, what: object, begin: str = "") -> None:
        line = f"{begin}{parser.prog}: {kind}{shown(' '.join(str(what).split()))}"
        if sys.stderr is not None:  # print would take standard output instead
            with contextlib.suppress(OSError), past_bars():
                print(line, file=sys.stderr, flush=True)

    def show_warning(message: Any, *where: Any, **more: Any) -> None:
        complain("warning: ", message)

    if sys.stdout is None:
        complain("error: ", "standard output is closed. To have none, send it to /dev/null")
        return 2
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            code = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        code = 141
    except KeyboardInterrupt as error:
        on_terminal = sys.stderr is not None and sys.stderr.isatty()
        says = str(error) or "interrupted"
        if not parallel.told_by_first(error):
            complain("", says, begin="\n" * on_terminal)  # its ^C stands in the line
        code = 130
    except NonFiniteError as error:
        if not parallel.told_by_first(error):
            complain("error: ", error)
        code = 1
    except OSError as error:
        where = error.filename
        if where is None and error.errno in NO_ROOM:  # files are told by their names
            where = "standard output"
        known = error.strerror and where is not None
        complain("error: ", f"{where}: {error.strerror}" if known else error)
        code = 2
    except USER_ERRORS as error:
        complain("error: ", error)
        code = 2
    try:
        sys.stdout.flush()
    except OSError:  # what is left goes nowhere, so that the flush at exit does not fail once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def past_bars() -> contextlib.AbstractContextManager:
    """Within this, a progress bar that is under way makes room for lines."""
    if "tqdm" not in sys.modules:
        return contextlib.nullcontext()
    from tqdm import tqdm

    return tqdm.external_write_mode(file=sys.stderr)


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """As `parser.parse_args`, but texts may also stand behind an option, where argparse stops."""
    args, rest = parser.parse_known_args(argv)
    end = rest.index("--") if "--" in rest else len(rest)
    loose, literal = rest[:end], rest[end + 1 :]
    if rest and (not hasattr(args, "texts") or any(text.startswith("-") for text in loose)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.texts += loose + literal
    return args


# --- the commands ---------------------------------------------------------------------------------


def train(args: argparse.Namespace) -> int:
    """Train a model, show how well it does, and save it if asked to."""
    ranks = ranks_of_mpiexec()
    if args.save is not None:
        check_writable(args.save)
    checkpoint = None
    if args.checkpoint is not None:
        check_writable(args.checkpoint, "--checkpoint")
        checkpoint = Checkpoint(args.checkpoint, args.checkpoint_every)
    start(args)
    if ranks is not None and ranks.rank > 0:  # the first tells for all
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  open to the end
    recipe = RECIPES[args.model]
    batch_size = args.batch_size or recipe.batch_size
    if args.stream:
        rows, titles, data = stream_data(args, batch_size)
        counted = "the rows that stream from these files"
    else:
        data = load_data(args.data)
        rows = data.train if args.take is None else data.train.take(args.take)
        titles, counted = rows.titles, f"{len(rows):,} rows of {classifier.short_name(data)}"
    set_random_seed(args.seed)

    vectorizer = classifier.adapted_vectorizer(titles)
    model = classifier.build_model(args.model, vectorizer)
    epochs = args.epochs or classifier.default_epochs(args.model, data)
    learned = min(len(titles), classifier.VOCABULARY_TITLES)
    print(f"Vocabulary: the {len(vectorizer.vocabulary):,} words of the first {learned:,} titles.")
    print(f"Model: {args.model}, {recipe.about}; computed with {get_backend()}.\n")
    model.summary()
    print(
        f"\nTraining on {counted}, {batch_size} a step"
        f"{'' if ranks is None else f' on each of {ranks.size} ranks'}, "
        f"for {epochs} epoch{'s' * (epochs != 1)}:",
        flush=True,
    )
    classifier.train(model, rows, epochs, batch_size, checkpoint=checkpoint, ranks=ranks)
    if ranks is not None and ranks.rank > 0:
        return 0
    if args.save is not None:
        model.save(args.save)
    print(f"\n{classifier.report(model, data)}")
    if args.save is not None:
        print(f'\nSaved in {args.save}. Try: minirnn predict {args.save} "a headline"')
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """Show how well a saved model does on the test rows."""
    start(args)
    model = classifier.load(args.path)
    data = load_data(args.data)
    print(f"Model: {model.name} from {args.path}; computed with {get_backend()}.\n")
    print(classifier.report(model, data))
    return 0


def predict(args: argparse.Namespace) -> int:
    """Print the class of each text, a batch at a time."""
    if args.texts:
        batches = batches_of(arguments_as_texts(args.texts))
    elif sys.stdin is None or sys.stdin.isatty():
        raise UsageError(
            "there is no text. Give texts as arguments, or pipe lines into the command: "
            "minirnn predict MODEL < FILE"
        )
    else:
        batches = batches_of_lines(sys.stdin.buffer)
    start(args)
    model = classifier.load(args.path)
    names = classifier.class_names(model)
    width = max(map(len, names))
    for texts in batches:
        answers = []
        for text, row in zip(texts, classifier.predict(model, texts), strict=True):
            best = int(row.argmax())
            if args.json:
                chances = {n: round(float(p), 6) for n, p in zip(names, row, strict=True)}
                answer = {"class": names[best], "probabilities": chances, "text": text}
                answers.append(json.dumps(answer, allow_nan=False))
            else:
                answers.append(f"{names[best]:<{width}}  {row[best]:.3f}  {shown(text)}".rstrip())
        print("\n".join(answers), flush=True)
    return 0


def explain(args: argparse.Namespace) -> int:
    """Show token by token what a saved model makes of a text; with --html as a page, too."""
    from minirnn.inspect import trace, write_page

    if len(args.texts) != 1:
        raise UsageError(f"expected one text, in quotes; received {len(args.texts)}")
    [text] = arguments_as_texts(args.texts)
    if args.html is not None:
        check_writable(args.html, "--html")
    start(args)
    model = classifier.load(args.path)
    names = classifier.class_names(model)
    if args.target is not None and args.target not in names:
        raise UsageError(f"--target: expected one of {', '.join(names)}; received {args.target!r}")
    try:
        seen = trace(model, text, None if args.target is None else names.index(args.target))
    except ValueError as error:
        raise UsageError(str(error)) from None
    best = int(seen.prediction.argmax())
    print(f"{names[best]} {seen.prediction[best]:.3f}\n")
    width = max(len("token"), *map(len, seen.tokens))
    print(f"{'token':<{width}}  matters  if the text ended here")
    most = float(seen.saliency_norm.max()) or 1.0
    for token, known, norm, row in zip(
        seen.tokens, seen.known, seen.saliency_norm, seen.probabilities, strict=True
    ):
        here = int(row.argmax())
        note = "" if known else "   (not in the vocabulary)"
        print(f"{token:<{width}}  {norm / most:7.2f}  {names[here]} {row[here]:.3f}{note}")
    if args.html is not None:
        try:
            write_page(args.html, seen, names)
        except ValueError as error:
            raise UsageError(str(error)) from None
        print(f"\nThe page to step through: {args.html}")
    return 0


def gradcheck(args: argparse.Namespace) -> int:
    """Check the gradients of all cells, layers and losses; 1 if one is wrong."""
    from minirnn.gradcheck import check_library

    checked = failed = 0
    for name, report in check_library(args.part):
        checked += 1
        failed += not report.passed
        worst = report.worst
        verdict = "ok  " if report.passed else "FAIL"
        print(f"{verdict} {name}: worst error {worst.error:.1e}, in {worst.name}", flush=True)
        if not report.passed:
            print(report)
    if not checked:
        raise UsageError(f"there is nothing to check with {args.part!r} in its name")
    print(f"{failed} of {checked} fail." if failed else f"All {checked} pass.")
    return 1 if failed else 0


def bench(args: argparse.Namespace) -> int:
    try:
        return bench_main.run(args)
    except ValueError as error:
        raise UsageError(str(error)) from None


COMMANDS = {
    function.__name__: function
    for function in (train, evaluate, predict, explain, gradcheck, bench)
}


# --- their helpers --------------------------------------------------------------------------------


def start(args: argparse.Namespace) -> None:
    """Choose the backend, and let output pass that the terminal's encoding cannot show."""
    if args.backend is not None:
        set_backend(args.backend)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def ranks_of_mpiexec() -> parallel.Ranks | None:
    """All processes that mpiexec has started; None without it."""
    rank, ranks = parallel.launched()
    if ranks == 1:
        return None
    try:
        world = parallel.world()
    except ImportError as error:
        if rank > 0:  # the first tells for all
            raise SystemExit(2) from None
        raise UsageError(str(error)) from None
    world.told_in_a_line += USER_ERRORS
    return world


def load_data(source: str | None) -> ag_news.NewsData:
    data = ag_news.load(source)
    print(f"Data: {data.description}")
    if source is None and data.source == "sample":
        print("AG News itself: --data FOLDER, or --data tfds to download it.")
    return data


def stream_data(
    args: argparse.Namespace, batch_size: int
) -> tuple[Stream, list[str], ag_news.NewsData]:
    """Training rows that stay in their files, the first of their titles, and the test rows."""
    if args.take is not None:
        raise UsageError("--take takes the first rows of those in memory: leave out --stream")
    files, data = ag_news.load_for_streaming(args.data)
    print(f"Data: {data.description}")
    rows = classifier.stream(args.model, files, batch_size, args.shuffle_buffer, args.seed)
    return rows, classifier.first_titles(files, args.shuffle_buffer, args.seed), data


def check_writable(path: str, option: str = "--save") -> None:
    """Find out before the work, not after it, that there is no place for its result."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise UsageError(f"{option}: {path} is a folder. Expected the name of a file")
    if not os.path.isdir(folder):
        raise UsageError(f"{option}: there is no folder {folder}. Make it first")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{option}: no right to write into the folder {folder}")


def arguments_as_texts(texts: Sequence[str]) -> Iterator[str]:
    """The texts of the command line, taken for UTF-8 whatever the locale says."""
    for number, text in enumerate(texts, 1):
        try:
            yield os.fsencode(text).decode()
        except UnicodeError:
            raise UsageError(f"text {number} of the command line is not UTF-8") from None


def shown(text: str) -> str:
    """A text on one line, harmless to a terminal: control characters stand there as escapes."""
    if text.isprintable():
        return text
    return " ".join(text.splitlines()).translate(CONTROLS)


CONTROLS = {code: f"\\x{code:02x}" for code in (*range(9), *range(10, 32), *range(127, 160))}
