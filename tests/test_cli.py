"""The command `minirnn`: what it prints, its exit codes, and its errors."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest

import minirnn
from minirnn import Sequential, classifier, cli
from minirnn.arguments import make_parser
from minirnn.data import ag_news
from minirnn.gradcheck import gradcheck, library_cases
from minirnn.layers import Dense, Embedding, SimpleRNN, TextVectorization

QUICK = ["train", "--data", "sample", "--model", "rnn-title", "--take", "600", "--epochs", "2"]
SAMPLE = "generated sample (not AG News)"
LINE = re.compile(r"(World|Sports|Business|Sci/Tech) +(\d\.\d{3})(?:  (.*))?")


@pytest.fixture(scope="module")
def news():
    return ag_news.load("sample")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The path of a trained model, and what `train` printed."""
    path = tmp_path_factory.mktemp("models") / "title.mrnn"
    done = command(*QUICK, "--save", str(path))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return str(path), done.stdout


def command(*arguments, input=None, **environment):
    """`python -m minirnn` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "minirnn", *arguments],
        input=input,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"} | environment,
    )


def failing(capsys, *arguments):
    """What the command complains of; it must be one line, with exit code 2."""
    try:
        code = cli.main(list(arguments))
    except SystemExit as stop:  # argparse
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2
    assert "Traceback" not in err
    *usage, complaint = err.splitlines()
    assert not usage or usage[0].startswith("usage: minirnn")
    assert re.match(r"minirnn( \w+)?: error: ", complaint)
    return complaint


# --- train ----------------------------------------------------------------------------------------


def test_train_shows_data_model_progress_and_results(saved):
    path, out = saved
    assert out.startswith("Data: A generated sample of toy news, not AG News: 6,000 training rows")
    for expected in (
        "words of the first 600 titles.",
        "Model: rnn-title, SimpleRNN(16) on the titles, no mask; computed with ",
        "Total weights: 1,281,364",
        f"Training on 600 rows of the {SAMPLE}, 16 a step, for 2 epochs:",
        "Epoch 1/2: ",
        "Epoch 2/2: ",
        f"Accuracy on the 1,500 test rows of the {SAMPLE}: 0.",
        "World    Sports  Business  Sci/Tech",
        f"Saved in {path}. Try: minirnn predict {path}",
    ):
        assert expected in out
    assert "--data tfds" not in out  # the sample was asked for


def test_same_seed_same_output(capsys):
    outputs = []
    for seed in ("3", "3", "4"):
        arguments = [*QUICK[:-4], "--take", "90", "--epochs", "1", "--batch-size", "30"]
        assert cli.main([*arguments, "--seed", seed]) == 0
        outputs.append(re.sub(r"\d+\.\d s", "", capsys.readouterr().out))
    assert outputs[0] == outputs[1] != outputs[2]
    assert "Training on 90 rows" in outputs[0]
    assert "30 a step, for 1 epoch:" in outputs[0]


def test_without_data_the_sample_is_taken_and_the_real_news_pointed_out(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.delenv("MINIRNN_AG_NEWS", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert cli.main(["train", "--model", "rnn-title", "--take", "8", "--epochs", "1"]) == 0
    out = capsys.readouterr().out
    assert "not AG News" in out.splitlines()[0]
    assert "--data FOLDER" in out.splitlines()[1]


def test_news_from_csv_files(capsys, monkeypatch, tmp_path, news):
    ag_news.write_csv(news.train.take(30), tmp_path / "train.csv")
    ag_news.write_csv(news.test.take(7), tmp_path / "test.csv")
    arguments = ["train", "--model", "rnn-title"]
    assert cli.main([*arguments, "--data", str(tmp_path)]) == 0
    given = capsys.readouterr().out
    assert "7 test rows of AG News: " in given
    assert "for 1 epoch:" in given
    assert "sample" not in given
    monkeypatch.setenv("MINIRNN_AG_NEWS", str(tmp_path))
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[0] == given.splitlines()[0]


@pytest.mark.filterwarnings("default")  # as outside of tests
def test_cupy_that_is_missing_gives_a_warning_of_one_line(capsys, monkeypatch):
    before = minirnn.get_backend()
    monkeypatch.setitem(sys.modules, "cupy", None)
    try:
        arguments = [*QUICK[:-4], "--take", "8", "--epochs", "1", "--backend", "cupy"]
        assert cli.main(arguments) == 0
    finally:
        monkeypatch.undo()
        minirnn.set_backend(before)
    out, err = capsys.readouterr()
    assert "computed with numpy." in out
    assert err.startswith("minirnn: warning: minirnn computes with NumPy: CuPy is not installed.")
    assert err.count("\n") == 1


def test_divergence_is_exit_code_1(capsys, monkeypatch):
    def explode(*arguments, **options):
        raise minirnn.NonFiniteError("the loss became nan at epoch 1, step 3")

    monkeypatch.setattr(classifier, "train", explode)
    assert cli.main(QUICK) == 1
    assert capsys.readouterr().err == "minirnn: error: the loss became nan at epoch 1, step 3\n"


def test_ctrl_c_is_exit_code_130_and_one_line(capsys, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(classifier, "train", interrupt)
    assert cli.main(QUICK) == 130
    assert capsys.readouterr().err == "minirnn: interrupted\n"


def test_train_goes_on_from_a_checkpoint(capsys, monkeypatch, tmp_path):
    """Interrupted in step 5, and started once more with the same command."""
    wanted = [*QUICK, "--checkpoint", str(tmp_path / "c"), "--checkpoint-every", "2"]
    assert cli.main([*QUICK, "--save", str(tmp_path / "whole.mrnn")]) == 0
    step, steps = minirnn.steps.train_step, itertools.count(1)

    def interrupted(*arguments, **options):
        if next(steps) == 5:
            signal.raise_signal(signal.SIGINT)
        return step(*arguments, **options)

    monkeypatch.setattr(minirnn.steps, "train_step", interrupted)
    assert cli.main(wanted) == 130
    assert capsys.readouterr().err.startswith("minirnn: stopped at epoch 1, step 5; all is saved")
    monkeypatch.undo()
    assert cli.main([*wanted, "--save", str(tmp_path / "again.mrnn")]) == 0
    assert "goes on at epoch 1, step 5" in capsys.readouterr().out
    whole, again = (minirnn.load(tmp_path / f"{name}.mrnn") for name in ("whole", "again"))
    for expected, weights in zip(whole.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, expected)
    assert cli.main([*wanted, "--seed", "1"]) == 0  # has ended
    assert cli.main([*wanted, "--take", "8"]) == 2
    assert "is of a training with other vocabulary: there" in capsys.readouterr().err


def test_warnings_are_shown_as_before_when_the_command_has_run(capsys, saved):
    shown = warnings.showwarning
    cli.main(["predict", saved[0], "oil"])
    assert warnings.showwarning is shown


# --- evaluate and predict -------------------------------------------------------------------------


def test_trained_evaluated_and_predicted_alike(capsys, saved, news):
    path, out = saved
    assert cli.main(["evaluate", path, "--data", "sample"]) == 0
    evaluated = capsys.readouterr().out
    assert f"Model: rnn-title from {path}" in evaluated
    accuracy = re.compile(rf"Accuracy on the 1,500 test rows of the {re.escape(SAMPLE)}: .*")
    assert accuracy.search(evaluated)[0] == accuracy.search(out)[0]
    results = out[accuracy.search(out).start() : out.index("\n\nSaved")]
    assert results in evaluated  # confusion table and headlines too

    titles = news.test.titles[:100]
    expected = classifier.predict(classifier.load(path), titles)
    assert cli.main(["predict", path, *titles]) == 0
    lines = [LINE.fullmatch(line).groups() for line in capsys.readouterr().out.splitlines()]
    assert [line[2] for line in lines] == titles
    assert [line[0] for line in lines] == [ag_news.CLASS_NAMES[p.argmax()] for p in expected]
    assert [line[1] for line in lines] == [f"{p.max():.3f}" for p in expected]


def test_predict_reads_lines_from_a_pipe(saved):
    texts = ["Strikers win the cup final", "", "Bankers düpieren Brokers", "no line end"]
    given = "\ufeff" + "\n".join([texts[0] + "\r", *texts[1:]])
    done = command("predict", saved[0], input=given)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [LINE.fullmatch(line).groups() for line in done.stdout.splitlines()]
    assert [line[2] or "" for line in lines] == texts


def test_predict_answers_before_its_input_ends(saved):
    """A batch of lines at a time: nothing waits for the rest of a long, or endless, input."""
    process = subprocess.Popen(
        [sys.executable, "-m", "minirnn", "predict", saved[0]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    try:
        process.stdin.write(b"Strikers win\n" * classifier.PREDICT_BATCH)
        process.stdin.flush()
        lines = [process.stdout.readline() for _ in range(classifier.PREDICT_BATCH)]
        assert all(line.endswith(b"Strikers win\n") for line in lines)
        # The reader goes away, and the command ends with the code that the shell gives to SIGPIPE.
        process.stdout.close()
        process.stdin.write(b"Strikers win\n" * classifier.PREDICT_BATCH)
        process.stdin.close()
        assert process.wait(60) == 141
    finally:
        process.kill()
        process.wait()


def test_a_reader_that_goes_away_causes_no_complaint(saved):
    script = f'yes Strikers win | "{sys.executable}" -m minirnn predict "{saved[0]}" | head -n 3'
    done = subprocess.run(
        ["sh", "-c", script],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr == ""


def test_predict_nothing_from_an_empty_pipe(saved):
    done = command("predict", saved[0], input="")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_predict_json(capsys, saved):
    texts = ["Strikers\twin", 'two\nlines "quoted" é']
    assert cli.main(["predict", saved[0], "--json", *texts]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["text"] for answer in answers] == texts
    for answer in answers:
        probabilities = answer["probabilities"]
        assert tuple(probabilities) == ag_news.CLASS_NAMES
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert answer["class"] == max(probabilities, key=probabilities.get)


def test_a_text_of_several_lines_stays_on_one(capsys, saved):
    assert cli.main(["predict", saved[0], "Strikers\nwin\r\nagain"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("  Strikers win again")


def test_options_may_stand_between_and_behind_the_texts(capsys, saved):
    path = saved[0]
    assert cli.main(["predict", path, "a", "--json", "b", "--", "-c"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["text"] for answer in answers] == ["a", "b", "-c"]
    assert "unrecognized arguments: --jason" in failing(capsys, "predict", path, "a", "--jason")


def test_a_terminal_that_cannot_show_a_character(saved):
    done = command("predict", saved[0], "é", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert done.stdout.rstrip().endswith(r"\xe9")


def test_models_with_other_classes_print_their_numbers(capsys, tmp_path):
    layers = [TextVectorization(vocabulary=["oil"]), Embedding(3, 2), SimpleRNN(2)]
    model = Sequential([*layers, Dense(3, activation="softmax")])
    model.build()
    path = str(tmp_path / "three.mrnn")
    model.save(path)
    assert cli.main(["predict", path, "oil"]) == 0
    assert re.fullmatch(r"[012]  0\.\d{3}  oil\n", capsys.readouterr().out)
    assert "has 3 classes" in failing(capsys, "evaluate", path, "--data", "sample")


# --- bad input ------------------------------------------------------------------------------------


def test_bad_arguments(capsys, saved, tmp_path):
    assert "required: COMMAND" in failing(capsys)
    assert "invalid choice: 'lst'" in failing(capsys, "train", "--model", "lst")
    for option in ("--epochs", "--batch-size", "--take"):
        said = failing(capsys, "train", option, "0")
        assert f"{option}: expected a whole number of at least 1, received '0'" in said
    assert "at least 0, received '-1'" in failing(capsys, "train", "--seed=-1")
    assert "unrecognized arguments: more" in failing(capsys, "train", "more")


def test_places_that_cannot_be_written_are_told_before_training(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(classifier, "train", lambda *arguments: pytest.fail("it trained"))
    there = tmp_path / "missing" / "model"
    assert f"there is no folder {there.parent}" in failing(capsys, *QUICK, "--save", str(there))
    assert "is a folder" in failing(capsys, *QUICK, "--save", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    assert "no right to write" in failing(capsys, *QUICK, "--save", str(tmp_path / "model"))


def test_bad_data(capsys, tmp_path):
    missing = str(tmp_path / "nowhere")
    assert "which is not a folder" in failing(capsys, "train", "--data", missing)
    (tmp_path / "test.csv").write_text('"1","a","b"\n')
    (tmp_path / "train.csv").write_text('"1","a","b"\n"5","c","d"\n')
    said = failing(capsys, "train", "--data", str(tmp_path))
    assert "train.csv, line 2: the class '5'" in said


@pytest.mark.parametrize("action", [["evaluate"], ["predict", "--json"]])
def test_bad_model_files(capsys, tmp_path, action):
    def said(path):
        more = ["oil"] if action[0] == "predict" else []
        return failing(capsys, *action, str(path), *more)

    assert f"{tmp_path / 'none'}: No such file or directory" in said(tmp_path / "none")
    assert "Is a directory" in said(tmp_path)
    (tmp_path / "text").write_text("oil prices rise\n" * 9)
    assert "text: this is no model file" in said(tmp_path / "text")
    (tmp_path / "empty").write_bytes(b"")
    assert "empty: this is no model file" in said(tmp_path / "empty")
    model = Sequential([Embedding(5, 2), SimpleRNN(2), Dense(3, activation="softmax")])
    model.build()
    model.save(tmp_path / "ids")
    assert "ids: this model takes no texts" in said(tmp_path / "ids")


def test_damaged_model_file(capsys, saved, tmp_path):
    with open(saved[0], "rb") as file:
        content = file.read()
    (tmp_path / "half").write_bytes(content[: len(content) // 2])
    assert "half: this is no model file, or it is damaged" in failing(
        capsys, "predict", str(tmp_path / "half"), "oil"
    )


def test_predict_without_texts_at_a_terminal(capsys, monkeypatch, saved):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert "there is no text" in failing(capsys, "predict", saved[0])


def test_texts_that_are_not_utf8(capsys, saved):
    process = subprocess.run(
        [sys.executable, "-m", "minirnn", "predict", saved[0]],
        input=b"fine\n\xff broken\n",
        capture_output=True,
        timeout=120,
    )
    assert process.returncode == 2
    expected = b"minirnn: error: standard input, line 2: the byte 0xff is not UTF-8\n"
    assert process.stderr == expected
    said = failing(capsys, "predict", saved[0], "fine", "\udcff broken")
    assert "text 2 of the command line is not UTF-8" in said


# --- gradcheck and help ---------------------------------------------------------------------------


def test_gradcheck_prints_a_line_a_case(capsys):
    name = next(iter(library_cases()))
    assert cli.main(["gradcheck", name]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines
    assert all(re.match(r"ok   .*: worst error \d\.\de-\d\d, in \w", line) for line in lines)
    assert last == f"All {len(lines)} pass."
    assert "nothing to check with 'nonsense'" in failing(capsys, "gradcheck", "nonsense")


class WrongDense(Dense):
    def backward(self, dy, cache):
        dx, grads = super().backward(dy, cache)
        return dx, grads | {"bias": -grads["bias"]}


def test_gradcheck_that_fails_is_exit_code_1(capsys, monkeypatch):
    x = np.random.default_rng(0).normal(size=(5, 2))
    report = gradcheck(WrongDense(3, activation="tanh"), x=x)
    good = gradcheck(Dense(3, activation="tanh"), x=x)
    monkeypatch.setattr(
        sys.modules["minirnn.gradcheck"],
        "check_library",
        lambda part: iter([("right", good), ("wrong", report)]),
    )
    assert cli.main(["gradcheck"]) == 1
    out = capsys.readouterr().out
    assert "ok   right: " in out
    assert "FAIL wrong: " in out
    assert "bias" in out
    assert out.endswith("1 of 2 fail.\n")


@pytest.mark.parametrize("name", ["train", "evaluate", "predict", "gradcheck"])
def test_help_has_examples(capsys, name):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    examples = out[out.index("examples:\n") :].splitlines()[1:]
    assert examples
    parser = make_parser(cli.COMMANDS)
    for example in examples:  # every example is a command that the parser takes
        words = re.split(r"\bminirnn ", re.sub(r" <.*", "", example), maxsplit=1)[1]
        parser.parse_args([word.strip('"') for word in re.findall(r'"[^"]*"|\S+', words)])


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"minirnn {minirnn.__version__}\n"
