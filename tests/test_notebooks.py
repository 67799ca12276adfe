"""The notebooks of the course: they run, show what their text says, and are the same course in
English and in Turkish."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*/*.ipynb") if path.parent.name == "en")
ALL = sorted(FOLDER.glob("*/*.ipynb"))
SECONDS_A_CELL = 300
NEEDED = ("ipykernel", "matplotlib", "nbclient", "nbformat")
STDOUT = ("stream", "stdout")
ABSOLUTE_PATH = re.compile(r"(?<![\w./])(/(home|Users|root|tmp|work|mnt|usr|var)/|[A-Z]:\\)")


def load(language, name):
    return json.loads((FOLDER / language / f"{name}.ipynb").read_text(encoding="utf-8"))


def sources(notebook, kind):
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == kind]


# --- as they are stored ---------------------------------------------------------------------------


def test_each_notebook_is_there_in_both_languages():
    assert [name[:2] for name in NAMES] == [f"0{number}" for number in range(1, 10)]
    assert [path.stem for path in ALL] == NAMES * 2


@pytest.mark.parametrize("name", NAMES)
def test_twins_have_the_same_code_and_each_its_own_text(name):
    english, turkish = load("en", name), load("tr", name)
    assert sources(english, "code") == sources(turkish, "code")
    for key in ("id", "cell_type"):
        assert [c[key] for c in english["cells"]] == [c[key] for c in turkish["cells"]]
    for ours, theirs in zip(
        sources(english, "markdown"), sources(turkish, "markdown"), strict=True
    ):
        assert ours != theirs
        assert re.findall(r"^#+", ours, re.M) == re.findall(r"^#+", theirs, re.M)
        assert ours.count("$") == theirs.count("$")


@pytest.mark.parametrize("path", ALL, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_notebooks_are_stored_clean(path):
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["name"]) == (4, "python3")
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
        assert not ABSOLUTE_PATH.search("".join(cell["source"]))
    assert sources(notebook, "markdown")[0].startswith(f"# {int(path.stem[:2])}. ")


def test_plots_have_axis_labels():
    for name in NAMES:
        for code in sources(load("en", name), "code"):
            if "plt.subplots(" in code:
                assert "set_xlabel(" in code, (name, code)
                assert "set_ylabel(" in code, (name, code)


# --- as they run ----------------------------------------------------------------------------------


def numbers(text, begin):
    """Those at the end of the one line that begins so."""
    (line,) = [line for line in text.splitlines() if line.startswith(begin)]
    return [float(number) for number in re.findall(r"-?\d+\.\d*(?:e[-+]\d+)?", line)]


def order_matters(text):
    (bag, bag_shuffled), (rnn, shuffled) = numbers(text, "bag of"), numbers(text, "SimpleRNN ")
    assert bag == bag_shuffled
    assert shuffled < bag < 0.8 < 0.92 < rnn


def one_cell(text):
    assert "step 1  0.5000  0.7311  0.7616  0.5000  0.3808  0.1817" in text
    assert "the library's LSTMCell gives the same h and c" in text
    assert "False" not in text


def gradient_check(text):
    assert "all blocks pass" in text
    assert "5 of 5 blocks FAIL" in text
    for cell in ("SimpleRNNCell  ", "ForgetfulCell  "):
        first, last = numbers(text, cell)
        assert last < first / 10


def padding(text):
    masked = numbers(text, "mask True  accuracy on the test")
    assert masked[0] > 0.9
    assert set(masked) == {masked[0]}
    assert max(numbers(text, "mask False accuracy on the test")) < 0.5


def vanishing(text):
    on_test = " accuracy on the test rows"
    after = {line.split("  ")[0]: line for line in text.splitlines() if on_test in line}
    for name in ("SimpleRNN", "LSTM", "GRU"):
        assert max(numbers(after[name].split(":")[1], "")) < 0.65
    for name in ("LSTM, gate bias 8", "GRU, gate bias 8"):
        assert min(numbers(after[name].split(":")[1], "")) > 0.9


def bidirectional(text):
    assert "False" not in text
    assert text.count("as computed by hand: True") == 4
    assert numbers(text, "forward  ")[-1] < 0.65 < 0.95 < numbers(text, "bidirectional  ")[-1]
    assert numbers(text, "with a mask") == [0]
    assert numbers(text, "without")[0] > 1e-4
    assert "together 72964" in text


def word_vectors(text):
    accuracy = {
        line.split("  ")[0]: numbers(line, line.split("  ")[0])
        for line in text.splitlines()
        if re.fullmatch(r"[a-z, ]+?(  +0\.\d{3}){4}", line)
    }
    assert accuracy["pretrained"][-1] > 0.9
    first = [accuracy[name][0] for name in ("random", "wrong words", "pretrained, frozen")]
    assert first == sorted(first)


def characters(text):
    losses = [float(loss) for loss in re.findall(r"held-out loss ([\d.]+)", text)]
    assert losses[-1] < 0.8 < losses[0]
    assert max(float(share) for share in re.findall(r"copied ([\d.]+)", text)) < 0.05


def sequences(text):
    assert float(re.findall(r"whole rows ([\d.]+)", text)[-1]) > 0.95
    [two] = re.findall(r"2 digits: .* others: ([\d.]+)", text)
    assert float(two) < 0.8


SAYS = {
    "01_why_order_matters": order_matters,
    "02_one_cell_by_hand": one_cell,
    "03_bptt_and_the_gradient_check": gradient_check,
    "04_padding_masking_bucketing": padding,
    "05_the_vanishing_gradient": vanishing,
    "06_bidirectional_and_stacked": bidirectional,
    "07_pretrained_word_vectors": word_vectors,
    "08_characters": characters,
    "09_from_sequence_to_sequence": sequences,
}


RUN = """
import sys
import nbclient
import nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbformat.validate(notebook)
where = {"metadata": {"path": sys.argv[3]}}
client = nbclient.NotebookClient(
    notebook, timeout=int(sys.argv[4]), kernel_name="python3", resources=where
)
client.execute()
nbformat.write(notebook, sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_notebooks_run_and_show_what_they_say(name, tmp_path):
    """The English ones: the Turkish ones have the same code, as is tested above.

    In a process of its own: where ipykernel is imported, minirnn takes itself to be in a notebook.
    """
    missing = [package for package in NEEDED if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"running a notebook needs {', '.join(missing)}")
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    unwanted = ("MPLBACKEND", "MINIRNN_AG_NEWS", "MINIRNN_BACKEND")
    env = {key: value for key, value in os.environ.items() if key not in unwanted}
    env |= {
        "PYTHONPATH": os.pathsep.join(paths),
        "OPENBLAS_NUM_THREADS": "1",
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    source, executed = FOLDER / "en" / f"{name}.ipynb", tmp_path / "executed.ipynb"
    arguments = map(str, (source, executed, tmp_path, SECONDS_A_CELL))
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], capture_output=True, encoding="utf-8", env=env
    )
    assert done.returncode == 0, done.stderr

    notebook = json.loads(executed.read_text(encoding="utf-8"))
    outputs = [o for cell in notebook["cells"] for o in cell.get("outputs", ())]
    printed = "".join(
        "".join(o["text"]) for o in outputs if (o["output_type"], o.get("name")) == STDOUT
    )
    plots = sum("plt.subplots(" in code for code in sources(notebook, "code"))
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= plots
    if name in SAYS:
        SAYS[name](printed)
