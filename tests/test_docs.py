"""What README.md and docs/ show runs as it stands there.

The Python of a page runs from top to bottom, as one program. Commands are not run, but read: there
is such a command, and it takes these options.
"""

from __future__ import annotations

import configparser
import contextlib
import doctest
import importlib
import importlib.metadata
import inspect
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import minirnn
from minirnn import cells, cli, set_random_seed
from minirnn.arguments import make_parser

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md"))]
PAGES = [page for page in PAGES if "_build" not in page]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PEERS = {"minirnn.interop": ("h5py", "onnx"), "parallel.world": ("mpi4py", "mpich")}


class Block(NamedTuple):
    """A fenced block: its language, its text, and the line of the page where the text begins."""

    language: str
    text: str
    line: int


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks_of(page):
    text = read(page)
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1)
        for found in FENCE.finditer(text)
    ]


def python_of(page):
    return [block for block in blocks_of(page) if block.language == "python"]


def run(block, page, names):
    """Run a block: plain code, or a doctest where it has prompts."""
    if ">>>" not in block.text:
        exec(compile("\n" * (block.line - 1) + block.text, ROOT / page, "exec"), names)
        return
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    test = doctest.DocTestParser().get_doctest(block.text, names, page, page, block.line - 1)
    runner, report = doctest.DocTestRunner(optionflags=flags), io.StringIO()
    failed, _ = runner.run(test, out=report.write, clear_globs=False)
    names.update(test.globs)
    assert not failed, report.getvalue()


def installed(package):
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def run_page(page):
    """The names that the page's program leaves; what needs peer libraries is left out without."""
    set_random_seed(1)
    names = {"__name__": page}
    left_out = [word for word, packages in PEERS.items() if not all(map(installed, packages))]
    for block in python_of(page):
        if not any(word in block.text for word in left_out):
            run(block, page, names)
    return names


# --- Python ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in PAGES if python_of(page)])
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(page)


def test_the_readme_does_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shown = run_page("README.md")
    assert shown["model"].predict(["Shares fall"]).shape == (1, 4)
    assert (tmp_path / "news.mrnn").is_file()
    assert shown["minirnn"].gradcheck(shown["cell"]).passed
    assert "LSTMCell" in capsys.readouterr().out


def test_a_wrong_line_fails(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run(Block("python", "1 / 0\n", 3), "README.md", {})
    with pytest.raises(AssertionError, match=r"Got:\s+3"):
        run(Block("python", ">>> 1 + 2\n4\n", 3), "README.md", {})


@pytest.mark.parametrize("page", PAGES)
def test_each_block_is_one_that_is_tested(page):
    languages = {block.language for block in blocks_of(page)}
    assert {name for name in languages if not name.startswith("{")} <= {"python", "sh"}
    assert read(page).count("```") == 2 * len(blocks_of(page))


# --- equations ------------------------------------------------------------------------------------

SECTIONS = {
    "SimpleRNN": cells.SimpleRNNCell,
    "LSTM": cells.LSTMCell,
    "GRU": cells.GRUCell,
    "GRU, reset before the product": cells.GRUCellResetBefore,
}


@pytest.fixture(scope="module")
def equations():
    return run_page("docs/equations.md")


@pytest.mark.parametrize("cell", [cell.__name__ for cell in SECTIONS.values()])
def test_the_equations_are_those_of_the_cells(equations, cell):
    assert max(equations["largest_difference"](cell, seed) for seed in (2, 3, 4)) < 1e-12


def test_a_wrong_equation_shows(equations, monkeypatch):
    monkeypatch.setitem(equations, "sigmoid", lambda a: 1 / (1 + np.exp(-1.001 * a)))
    for cell in ("LSTMCell", "GRUCell", "GRUCellResetBefore"):
        assert equations["largest_difference"](cell, 2) > 1e-6


def numbers(code):
    """The numbers of equations at the end of lines, line by line."""
    return re.findall(r"#\s+(\d(?: \d)*)(?=\s\s|\s*$)", code, re.MULTILINE)


def source(*methods):
    return "".join(map(inspect.getsource, methods))


@pytest.mark.parametrize("section", SECTIONS)
def test_the_lines_have_the_numbers_of_the_code(section):
    cell, page = SECTIONS[section], read("docs/equations.md")
    text = re.search(rf"^## {section}\n(.*?)^## ", page, re.DOTALL | re.MULTILINE)[1]
    forward, backward = [
        [line.replace(",", "") for line in re.findall(r"^\(([\d, ]+)\)", formula, re.MULTILINE)]
        for formula in re.findall(r"\\begin\{aligned\}(.*?)\\end\{aligned\}", text, re.DOTALL)
    ]
    assert forward == sorted(numbers(source(cell.steps)))
    in_cell = numbers(source(cell.local_derivatives, cell.steps_backward))
    assert set("".join(backward)) == set("".join(in_cell))
    assert numbers(text) == forward + backward


# --- commands -------------------------------------------------------------------------------------


def commands():
    """All commands in shell blocks, and those of minirnn in the running text."""
    for page in PAGES:
        for block in blocks_of(page):
            if block.language == "sh":
                for line in block.text.splitlines():
                    yield page, line
        text = FENCE.sub("", read(page))
        for command in re.findall(r"`(minirnn [a-z][^`]*)`", text):
            yield page, command if " " in command[8:] else f"{command} --help"


COMMANDS = sorted(set(commands()))


def test_there_are_commands():
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("page, command", COMMANDS)
def test_a_command_is_one_that_exists(page, command):
    words = shlex.split(re.split(r"[<>|]", command)[0], comments=True)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        del words[0]
    if not words:
        return
    if words[0] == "mpiexec":
        assert words[1] == "-n" and words[2].isdecimal()
        words = words[3:]
    program, *arguments = words
    if program == "minirnn":
        if arguments[1:] == ["--help"]:  # only named in the text
            with pytest.raises(SystemExit, match="^0$"):
                cli.parse(make_parser(cli.COMMANDS), arguments)
        else:
            cli.parse(make_parser(cli.COMMANDS), arguments)
    elif program == "make":
        makefile = read("Makefile")
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in arguments)
    elif program == "python":
        assert arguments[0] == "-m" or (ROOT / arguments[0]).is_file()
    elif program == "pip":
        config = configparser.ConfigParser()
        config.read(ROOT / "setup.cfg")
        extras = re.findall(r"\[(\w+)\]", " ".join(arguments))
        assert all(extra in config["options.extras_require"] for extra in extras)
    else:
        pytest.fail(f"{page}: what is {command!r}?")


def test_a_wrong_command_fails():
    with contextlib.redirect_stderr(io.StringIO()), pytest.raises(SystemExit):
        test_a_command_is_one_that_exists("README.md", "minirnn train --model gru-title")


# --- figures --------------------------------------------------------------------------------------


def test_measured_figures_are_those_of_the_results():
    decimal = re.compile(r"(?<![\d.])\d+\.\d+(?![\d.])")
    text = re.sub(r"\$.*?\$", "", FENCE.sub("", read("docs/how_it_is_fast.md")))
    figures = set(decimal.findall(text))
    assert len(figures) > 20
    assert figures <= set(decimal.findall(read("benchmarks/RESULTS.md")))


# --- links and the site ---------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", read(page))):
        if "://" not in link and not link.startswith("#"):
            assert (ROOT / page).parent.joinpath(link.split("#")[0]).exists(), link


def public_names():
    """What the reference has to tell about."""
    for module in ("layers", "gradcheck", "inspect", "utils"):
        module = importlib.import_module(f"minirnn.{module}")
        yield from (n for n in module.__all__ if not inspect.ismodule(getattr(module, n)))
    for module in ("callbacks", "initializers", "losses", "metrics", "optimizers", "schedules"):
        module = importlib.import_module(f"minirnn.{module}")
        yield from (
            name
            for name, value in vars(module).items()
            if inspect.isclass(value) and value.__module__ == module.__name__ and name[0] != "_"
        )
    yield from (name for name in minirnn.__all__ if callable(getattr(minirnn, name)))


def test_the_site_builds_without_a_warning(tmp_path):
    for package in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(package, reason="needs what `pip install '.[docs]'` brings")
    command = ["-m", "sphinx", "-q", "-E", "-W", "--keep-going", "-b", "html", "-d", "doctrees"]
    done = subprocess.run(
        [sys.executable, *command, str(ROOT / "docs"), "html"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for page in PAGES[1:]:
        built = tmp_path / "html" / Path(page).relative_to("docs").with_suffix(".html")
        assert built.is_file()
    reference = "".join(
        path.read_text(encoding="utf-8") for path in tmp_path.glob("html/api/*.html")
    )
    told = set(re.findall(r'class="sig-name descname"><span class="pre">(\w+)', reference))
    assert set(public_names()) - told == {"Elements"}  # what losses and metrics share
    course = (tmp_path / "html" / "course.html").read_text(encoding="utf-8")
    for notebook in ROOT.glob("examples/notebooks/*/*.ipynb"):
        assert f"/{notebook.name}" in course
