"""What is written where: bars on terminals, plain lines in files, and a sane end in any case."""

from __future__ import annotations

import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import minirnn
from minirnn import Sequential, progress, set_random_seed
from minirnn.layers import Dense, Embedding, SimpleRNN, TextVectorization

pty = pytest.importorskip("pty", reason="this system has no terminals of its own")
fcntl = pytest.importorskip("fcntl")
struct = pytest.importorskip("struct")
termios = pytest.importorskip("termios")

ROOT = Path(minirnn.__file__).parents[1]
PATIENCE = 60  # seconds
MINIRNN = [sys.executable, "-m", "minirnn"]
QUICK = ["train", "--data", "sample", "--model", "rnn-title", "--take", "60", "--epochs", "2"]
CONTROLS = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The path of a model that reads texts."""
    set_random_seed(1)
    layers = [TextVectorization(vocabulary=["oil", "cup"]), Embedding(4, 3, mask_zero=True)]
    model = Sequential([*layers, SimpleRNN(3), Dense(4, activation="softmax")])
    model.build()
    path = str(tmp_path_factory.mktemp("models") / "small.mrnn")
    model.save(path)
    return path


def environment(**more):
    quick = {"OPENBLAS_NUM_THREADS": "1", "MINIRNN_COMPILED": "0"}  # Numba takes time to import
    quick["PYTHON_COLORS"] = "0"  # in tracebacks, from Python 3.13 on
    start = os.environ | quick | {"TERM": "xterm"}
    return {key: value for key, value in start.items() if key != "NO_COLOR"} | more


def run(command, **options):
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, timeout=PATIENCE, env=environment(), **options
    )


def shell(line, *arguments, **options):
    """Run a line of sh, in which "$@" is the command."""
    return run(["sh", "-c", line, "sh", *arguments], **options)


# --- on a terminal --------------------------------------------------------------------------------


def on_a_terminal(command, keys=(), env=(), columns=100):
    """`(exit code, all that was written)`; keys: (what to wait for, what then to do)."""
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execvpe(command[0], command, environment(**dict(env)))
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    written, keys, end = b"", list(keys), time.monotonic() + PATIENCE
    pressed = b""
    try:
        while time.monotonic() < end:
            if not select.select([fd], [], [], 10)[0]:
                os.write(fd, pressed)  # once more: Python drops an interrupt within a finalizer
                continue
            try:
                some = os.read(fd, 65536)
            except OSError:  # so Linux says that there is no more
                break
            if not some:
                break
            written += some
            while keys and re.search(keys[0][0], written):
                action = keys.pop(0)[1]
                if callable(action):
                    action(fd)
                else:
                    pressed = action
                    os.write(fd, pressed)
    finally:
        if time.monotonic() >= end:
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        os.close(fd)
    assert not keys, written
    return os.waitstatus_to_exitcode(status), written


def screen(written):
    """`(lines, column of the cursor)` of a terminal that does what it is told."""
    lines, column = [""], 0
    for character in written.decode():
        if character == "\r":
            column = 0
        elif character == "\n":
            lines.append("")
        elif character == "\b":
            column -= 1
        else:
            assert character.isprintable(), written  # nothing hides the cursor, or colours anything
            lines[-1] = lines[-1][:column].ljust(column) + character + lines[-1][column + 1 :]
            column += 1
    return lines, column


SCRIPT = """
import sys, time
import numpy as np
from minirnn import Sequential
from minirnn.layers import Dense, Embedding, SimpleRNN

class Rows:
    def __init__(self, count, fails=False):
        self.count, self.fails = count, fails
    def __len__(self):
        return self.count
    def __iter__(self):
        for k in range(self.count):
            time.sleep(0.02 if self.count > 5 else 0)
            yield np.full((4, 3), 9 if self.fails and k == 4 else 1), np.arange(4) % 2

model = Sequential([Embedding(5, 2), SimpleRNN(2), Dense(2, activation="softmax")])
model.compile("adam", "sparse_categorical_crossentropy")
many, few = Rows(1000), Rows(3)
{
    "fit": lambda: model.fit(many),
    "validation": lambda: model.fit(few, validation_data=many),
    "evaluate": lambda: model.evaluate(many),
    "predict": lambda: model.predict(many, verbose=1),
    "error": lambda: model.fit(Rows(1000, fails=True)),
    "short": lambda: (model.fit(few, epochs=2), model.evaluate(few), model.predict(few, verbose=1)),
}[sys.argv[1]]()
"""


@pytest.mark.parametrize("part", ["fit", "validation", "evaluate", "predict", "error"])
def test_a_bar_that_is_interrupted_leaves_a_fresh_line(part):
    keys = [] if part == "error" else [(rb"%\|.* [2-9]/", b"\x03")]
    if part == "validation":
        keys = [(rb" 0/3 ", lambda fd: (time.sleep(0.7), os.write(fd, b"\x03")))]
    code, written = on_a_terminal([sys.executable, "-c", SCRIPT, part], keys)
    lines, column = screen(written)
    assert column == 0 and lines[-1] == ""
    traceback = lines.index("Traceback (most recent call last):")
    assert "%|" in lines[traceback - 1] and "batch/s" in lines[traceback - 1]
    if part == "error":
        assert code == 1 and lines[-2].startswith("ValueError: embedding: id 9")
    else:
        assert code == -signal.SIGINT and lines[-2] == "KeyboardInterrupt"


@pytest.mark.parametrize("columns", [30, 200])
def test_a_bar_follows_the_size_of_its_terminal(columns):
    def resize(fd):
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    keys = [(rb" [2-9]/1000", resize), (rb" [3-9][0-9]/1000", b"\x03")]
    code, written = on_a_terminal([sys.executable, "-c", SCRIPT, "fit"], keys)
    lines, column = screen(written)
    assert code == -signal.SIGINT and column == 0
    (last,) = re.findall(rb"\r([^\r]*)\r\nTraceback", written)
    assert (len(last.decode()) < 31) == (columns == 30)


def test_ctrl_c_in_training_by_the_command():
    command = [*MINIRNN, *QUICK[:-4], "--model", "bilstm"]
    code, written = on_a_terminal(command, [(rb" [2-9]/375", b"\x03")])
    lines, column = screen(written)
    assert code == 130 and column == 0
    assert lines[-2:] == ["minirnn: interrupted", ""]
    assert "Epoch 1/2:" in lines[-4] and "batch/s" in lines[-4]
    assert b"Traceback" not in written


@pytest.mark.parametrize(
    "command, begun",
    [
        (["gradcheck"], rb"ok   SimpleRNN"),
        (["evaluate", "MODEL", "--data", "sample"], rb"Data: "),
        (["bench", "--models", "rnn", "--rounds", "999"], rb"\"data\""),
        (["train", "--data", "sample", "--model", "bilstm"], rb"Data: "),  # while it vectorizes
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_ctrl_c_elsewhere(command, begun, saved):
    command = [saved if word == "MODEL" else word for word in command]
    code, written = on_a_terminal([*MINIRNN, *command], [(begun, b"\x03")])
    lines, column = screen(written)
    assert code == 130 and column == 0
    assert lines[-2] == "minirnn: interrupted"
    assert b"Traceback" not in written


def test_ctrl_c_while_lines_are_answered(saved, tmp_path):
    """While it waits for a producer that waits."""
    os.mkfifo(tmp_path / "lines")
    with open(os.open(tmp_path / "lines", os.O_RDWR), "wb") as producer:
        producer.write(b"oil\n")
        producer.flush()
        command = ["sh", "-c", f'exec "$@" <{tmp_path / "lines"}', "sh"]
        command += [*MINIRNN, "predict", saved]
        code, written = on_a_terminal(command, [(rb"  oil", b"\x03")])
    lines, column = screen(written)
    assert code == 130 and column == 0
    assert lines[-2:] == ["minirnn: interrupted", ""]


def test_a_warning_does_not_end_up_in_a_bar():
    code = (
        "import sys, warnings, minirnn.cli as cli\n"
        "from minirnn.progress import Progress\n"
        "class Args:\n"
        "    def run(self, args):\n"
        "        with Progress('Epoch 1/1', 5, 'auto') as bar:\n"
        "            bar.advance(None); warnings.warn('look out'); bar.advance(None)\n"
        "        return 0\n"
        "cli.parse = lambda parser, argv: Args()\n"
        "sys.exit(cli.main([]))\n"
    )
    status, written = on_a_terminal([sys.executable, "-c", code])
    lines, column = screen(written)
    assert status == 0 and column == 0
    assert "minirnn: warning: look out" in [line.strip() for line in lines]
    assert any(line.startswith("Epoch 1/1:  40%") for line in lines)


def test_a_terminal_that_cannot_move_its_cursor_gets_lines():
    command = [sys.executable, "-c", SCRIPT, "short"]
    code, written = on_a_terminal(command, env={"TERM": "dumb"})
    assert code == 0
    plain = written.replace(b"\r\n", b"\n")
    assert not CONTROLS.search(plain)
    assert [line.split(b":")[0] for line in plain.splitlines()] == [
        b"Epoch 1/2",
        b"Epoch 2/2",
        b"Evaluate",
    ]


def test_bars_are_plain_text_with_no_color():
    code, written = on_a_terminal([sys.executable, "-c", SCRIPT, "short"], env={"NO_COLOR": "1"})
    assert code == 0 and b"\x1b" not in written
    assert screen(written)[1] == 0


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_bars_in_an_ascii_terminal(locale):
    env = {"LC_ALL": locale, "PYTHONIOENCODING": "ascii" if locale == "C" else "utf-8"}
    code, written = on_a_terminal([sys.executable, "-c", SCRIPT, "short"], env=env)
    assert code == 0 and b"100%|" in written
    assert written.isascii() == (locale == "C")


# --- in files and pipes ---------------------------------------------------------------------------


@pytest.mark.parametrize("to_file", ["", "1", "2", "12"])
def test_a_file_or_pipe_gets_plain_lines(to_file, tmp_path):
    """Each of standard output and standard error on a terminal, or in a file."""
    redirect = "".join(f" {fd}>{tmp_path / fd}" for fd in to_file)
    command = ["sh", "-c", f'"$@"{redirect}', "sh", sys.executable, "-c", SCRIPT, "short"]
    code, written = on_a_terminal(command)
    assert code == 0 and screen(written)[1] == 0
    for fd in to_file:
        assert not CONTROLS.search((tmp_path / fd).read_bytes())
    bars = "2" not in to_file
    assert (b"100%|" in written) == bars
    everything = written + b"".join((tmp_path / fd).read_bytes() for fd in to_file)
    for title in (b"Epoch 1/2:", b"Epoch 2/2:", b"Evaluate:"):
        assert title in everything


@pytest.mark.parametrize(
    "command",
    [
        QUICK,
        ["evaluate", "MODEL", "--data", "sample"],
        ["predict", "MODEL", "oil \x1b[2J \x07 \x9b31m \r up", "é\u2028ü"],
        ["predict", "MODEL", "--json", "oil \x1b[2J \x07 \r up"],
        ["explain", "MODEL", "oil cup"],
        ["gradcheck", "GRUCell"],
        ["--help"],
        ["predict", "\x1b[31mnowhere\r", "oil"],
    ],
    ids=lambda command: command[0],
)
def test_no_command_writes_control_characters(command, saved):
    command = [saved if word == "MODEL" else word for word in command]
    encoding = "ascii" if command[0] == "predict" else "utf-8"
    done = subprocess.run(
        [*MINIRNN, *command],
        cwd=ROOT,
        capture_output=True,
        timeout=PATIENCE,
        env=environment(PYTHONIOENCODING=encoding),
    )
    assert done.returncode == (2 if "nowhere" in "".join(command) else 0), done.stderr
    text = (done.stdout + done.stderr).decode(encoding)
    assert not [c for c in text if not c.isprintable() and c != "\n"]
    assert b"Traceback" not in done.stderr


def test_a_text_is_shown_harmlessly(saved):
    done = run([*MINIRNN, "predict", saved], input=b"a\x1b[2J\x00\x07\tb\x7f\nx\ry\x0bz\n\n")
    shown = [line[17:] for line in done.stdout.decode().splitlines()]
    assert shown == ["a\\x1b[2J\\x00\\x07\tb\\x7f", "x y z", ""]


@pytest.mark.parametrize(
    "command",
    [QUICK, ["predict", "MODEL", "oil"], ["gradcheck", "GRUCell"], ["explain", "MODEL", "oil"]],
    ids=lambda command: command[0],
)
def test_output_that_cannot_be_written(command, saved):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    command = [*MINIRNN, *(saved if word == "MODEL" else word for word in command)]
    done = shell('"$@" >/dev/full', *command)
    assert done.returncode == 2
    assert done.stderr == b"minirnn: error: standard output: No space left on device\n"
    done = shell('"$@" >&-', *command)
    assert done.returncode == 2
    assert done.stderr.startswith(b"minirnn: error: standard output is closed.")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("to", ["&-", "/dev/full"])
def test_without_standard_error_there_are_no_complaints_in_the_output(to, saved):
    done = shell(f'"$@" 2>{to}', *MINIRNN, "predict", saved, "oil")
    assert done.returncode == 0 and done.stdout.endswith(b"oil\n")
    done = shell(f'"$@" 2>{to}', *MINIRNN, "predict", "nowhere", "oil")
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")
    done = shell(f'"$@" 2>{to}', sys.executable, "-c", SCRIPT, "short")
    assert done.returncode == 0 and done.stdout.count(b"\n") == 3


def test_a_script_without_standard_output():
    assert shell('"$@" >&- 2>&-', sys.executable, "-c", SCRIPT, "short").returncode == 0


def test_a_reader_that_goes_away_ends_any_command(saved):
    for command in (QUICK, ["gradcheck", "Cell"], ["evaluate", saved, "--data", "sample"]):
        done = shell('{ "$@"; echo code $? >&2; } | head -n 1', *MINIRNN, *command)
        assert done.stderr == b"code 141\n"
        assert done.stdout.count(b"\n") == 1


def test_an_imported_kernel_does_not_make_a_file_a_notebook(monkeypatch):
    """IPython's kernel is imported by other libraries, too."""
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    assert not progress.takes_bars(io.StringIO())
    assert not progress.takes_bars(None)
    closed = io.StringIO()
    closed.close()
    assert not progress.takes_bars(closed)
    notebook = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
    assert progress.takes_bars(notebook())


# --- lines in, answers out ------------------------------------------------------------------------


def test_every_line_has_its_answer_in_order(saved):
    texts = [f"oil {k} cup" if k % 7 else "" for k in range(5000)]
    given = "\n".join(texts).encode()
    done = run([*MINIRNN, "predict", saved, "--json"], input=given)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (0, b"")
    assert [answer["text"] for answer in answers] == texts


def test_a_slow_producer_gets_each_answer_at_once(saved):
    process = subprocess.Popen(
        [*MINIRNN, "predict", saved, "--json"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    try:
        for text in ("oil", "", "the cup\0\x1b", "\r", "é" * 1000):
            process.stdin.write(text.encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["text"] == text.rstrip("\r")
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_lines_before_a_bad_line_are_answered(saved):
    for bad, message in (
        (b"\xff\n", b"line 4: the byte 0xff is not UTF-8"),
        (b"x" * 2**19, b"line 4: it is longer than 262,144 bytes"),
    ):
        done = run([*MINIRNN, "predict", saved], input=b"a\n\nb\n" + bad)
        assert done.returncode == 2
        assert done.stdout.count(b"\n") == 3
        assert done.stderr.startswith(b"minirnn: error: standard input, " + message)
        assert done.stderr.count(b"\n") == 1


def test_memory_does_not_grow_with_the_input(saved):
    """Neither with many lines, nor with long ones, nor with one that never ends."""
    code = (
        "import resource, sys; from minirnn import cli\n"
        "code = cli.main(['predict', sys.argv[1]])\n"
        "kilo = 2**20 if sys.platform == 'darwin' else 2**10\n"
        "print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // kilo, file=sys.stderr)"
    )

    def peak(lines):
        done = shell(f'{lines} | "$@" | tail -n 1', sys.executable, "-c", code, saved)
        assert done.stdout
        return [int(number) for number in done.stderr.split()[-2:]]

    code_of_few, base = peak("yes oil up | head -n 2000")
    assert code_of_few == 0
    assert peak("yes oil up | head -n 20000")[1] < base + 25
    long = "yes '' | head -n 100000 | tr '\\n' 'x'; echo"
    assert peak(f"{{ for i in 1 2 3 4 5 6; do {long}; done; }}")[1] < base + 60
    stopped, most = peak("{ echo oil; head -c 300000000 /dev/zero; }")
    assert stopped == 2 and most < base + 25
