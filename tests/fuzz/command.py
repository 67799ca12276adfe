"""The command line: arguments, and standard input."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fuzz.judge import Finding, Hang, limits, require
from fuzz.values import Draw, bent, text
from minirnn import backend, cli, initializers, layers
from minirnn.data import ag_news
from minirnn.models import Sequential

FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-cli-")


@functools.cache
def places() -> dict[str, list[str]]:
    """Paths to models and to data, good and bad ones."""
    root = Path(FOLDER.name)

    def words(length: int | None = None) -> layers.TextVectorization:
        known = ["oil", "price", "rise"]
        return layers.TextVectorization(vocabulary=known, output_sequence_length=length)

    def end(bias: Any = "zeros") -> layers.Dense:
        return layers.Dense(4, "softmax", bias_initializer=bias)

    models = {
        "news": [words(), layers.Embedding(5, 2, mask_zero=True), layers.GRU(2), end()],
        "two": [words(), layers.Embedding(5, 2), layers.SimpleRNN(2), layers.Dense(2, "softmax")],
        "linear": [words(), layers.Embedding(5, 2), layers.SimpleRNN(2), layers.Dense(4)],
        "steps": [words(), layers.Embedding(5, 2), layers.GRU(2, return_sequences=True)],
        "ids": [layers.Embedding(5, 2), layers.GRU(2), layers.Dense(4, "softmax")],
        "nan": [words(), layers.Embedding(5, 2), layers.GRU(2), end(initializers.Constant(np.nan))],
        "long": [words(10**9), layers.Embedding(5, 2), layers.GRU(2), end()],
    }  # fmt: skip
    paths = []
    for name, stack in models.items():
        model = Sequential(stack)
        model.build()
        model.save(root / f"{name}.mrnn")
        paths.append(str(root / f"{name}.mrnn"))
    (root / "empty.mrnn").write_bytes(b"")
    (root / "text.mrnn").write_text("this is no model")
    data = root / "data"
    data.mkdir()
    rows = ag_news.Rows(
        ["Oil rises", "A goal", "Shares", "A chip"] * 2, ["a", "b", "c", "d"] * 2, np.arange(8) % 4
    )
    for split in ("train", "test"):
        ag_news.write_csv(rows, data / f"{split}.csv")
    broken = root / "broken"
    broken.mkdir()
    for split in ("train", "test"):
        (broken / f"{split}.csv").write_bytes(b'"1","a"\n')
    bad = [str(root / name) for name in ("empty.mrnn", "text.mrnn", "none.mrnn", "data")]
    return {"models": paths + bad, "data": [str(data), str(data), str(broken), str(root), "/none"]}


STRANGE = (
    "",
    "-1",
    "0",
    "1.5",
    "x",
    "1" * 5000,
    "²",
    "--",
    "-",
    "--x",
    "é\udcff",
    "\x00",
    "a\nb",
    "nan",
    "-h",
    "NaN",
)


def command_line(draw: Draw) -> None:
    """`minirnn ...`: exit code 0, 1 or 2, and of an error one line that is no traceback."""
    argv, lines = drawn_command(draw)
    if argv in (["gradcheck"], ["gradcheck", "--"], ["gradcheck", ""]):
        return  # that is all checks, which take a minute
    options = argv[: argv.index("--")] if "--" in argv else argv
    content = b"\n".join(lines)
    if lines and draw(st.integers(0, 4)) == 0:
        content = bent(draw, content)
    code, out, err = run_main(argv, content)
    shown = f"minirnn {argv} < {content[:200]!r} gave {code}\n{out[-500:]}\n{err[-1500:]}"
    require(code in (0, 1, 2), "an exit code of its own", shown)
    require("Traceback" not in err, "a traceback", shown)
    errors = [line for line in err.splitlines() if "error:" in line]
    require((code != 0) == (len(errors) == 1), "not one line of error", shown)
    if code == 0 and argv[:1] == ["predict"] and "-h" not in argv and "--help" not in argv:
        if "--json" in options:
            for line in out.splitlines():
                total = sum(json.loads(line)["probabilities"].values())
                require(abs(total - 1) < 1e-3, "no probabilities", shown)
        texts = [a for a in argv[2:] if a != "--json"]
        if not texts and not any(a.startswith("-") for a in argv[2:]):
            count = len(io.BytesIO(content).readlines())
            require(len(out.splitlines()) == count, "another number of lines", shown)


def drawn_command(draw: Draw) -> tuple[list[str], list[bytes]]:
    name = draw(
        st.sampled_from(
            ["predict"] * 6
            + ["explain"] * 3
            + ["evaluate", "train", "gradcheck", "bench", "", "x", "-h", "--version"]
        )
    )
    argv, lines = [name] if name else [], []

    def some(values: Any, odd: int = 6) -> str:
        return draw(st.sampled_from(STRANGE if draw(st.integers(1, odd)) == odd else list(values)))

    if name in ("predict", "explain", "evaluate"):
        argv.append(some(places()["models"], 12))
    if name == "predict":
        lines = [
            draw(
                st.sampled_from(
                    [b"oil price", b"", b"\xff", b"a" * 5000, "é".encode(), b"\r", b"x\x00y"]
                )
            )
            for _ in range(draw(st.integers(0, 4)))
        ]
        argv += ["--json"] if draw(st.booleans()) else []
        if draw(st.booleans()):
            argv += [text(draw) for _ in range(draw(st.integers(1, 3)))]
    if name == "explain":
        argv += [text(draw) for _ in range(draw(st.sampled_from([1, 1, 1, 0, 2])))]
        if draw(st.booleans()):
            argv += [
                "--html",
                some([f"{FOLDER.name}/page.html", f"{FOLDER.name}/none/x.html", FOLDER.name]),
            ]
        if draw(st.booleans()):
            argv += ["--target", some(["World", "Sci/Tech", "0", "world"])]
    if name in ("evaluate", "train"):
        argv += ["--data", some(places()["data"], 9)]
    if name == "train":
        argv += [
            "--model",
            some(["rnn-title", "rnn-title", "lstm"]),
            "--take",
            some(["1", "4", "100"]),
        ]
        options = ["--epochs", "--batch-size", "--seed", "--save", "--backend", "--checkpoint"]
        for option in draw(st.lists(st.sampled_from(options), unique=True)):
            known = {
                "--checkpoint": [f"{FOLDER.name}/{draw(st.integers(0, 99))}", FOLDER.name],
                "--save": [f"{FOLDER.name}/t.mrnn", f"{FOLDER.name}/none/t.mrnn"],
                "--backend": ["numpy", "auto"],
            }
            argv += [option, some(known.get(option, ["1", "2"]))]
    if name == "gradcheck":
        argv.append(some(["no such part", "Mean", "nothing"]))
        if not argv[-1]:
            argv[-1] = "x" * 9  # to check all takes a minute
    if name == "bench":
        argv += ["--rows", "x", some(["nonsense"])]
    if draw(st.integers(0, 9)) == 0:
        argv.insert(
            draw(st.integers(0, len(argv))), some(["--json", "--backend", "numpy", "--x=1"], 2)
        )
    if name == "bench" and "--rows" not in argv:
        argv = ["bench", "--x"]
    return argv, lines


def run_main(argv: list[str], content: bytes) -> tuple[Any, str, str]:
    """Exit code, output and errors of `cli.main` in this process."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    stdin, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(content), encoding="utf-8")
    here = os.getcwd()
    os.chdir(FOLDER.name)  # where files are written whose names are drawn
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            limits(),
            warnings.catch_warnings(),
        ):
            try:
                code: Any = cli.main(argv)
            except SystemExit as stop:
                code = 0 if stop.code is None else stop.code
    except Hang:
        raise Finding(f"minirnn {argv} is not done\n{traceback.format_exc()[-1500:]}") from None
    except Exception as error:
        told = traceback.format_exc()[-2500:]
        raise Finding(
            f"minirnn {argv} < {content[:99]!r}: {type(error).__name__} came out\n{told}"
        ) from error
    finally:
        sys.stdin = stdin
        os.chdir(here)
        backend.set_backend("numpy")
    for stream in (out, err):
        stream.flush()
    return code, out.buffer.getvalue().decode(), err.buffer.getvalue().decode()


TARGETS = (command_line,)
