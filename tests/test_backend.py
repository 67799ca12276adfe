"""Choosing NumPy or CuPy, also where CuPy is broken in one of its many ways; floats; seeds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from minirnn import backend, initializers
from minirnn.backend import get_backend, set_backend, sum_runs, to_device, to_host, xp


@pytest.fixture(autouse=True)
def numpy_before_and_after():
    set_backend("numpy")
    yield
    set_backend("numpy")


def install(monkeypatch, **contents):
    """A fake CuPy: NumPy under its name, but for what `contents` replaces."""
    fake = SimpleNamespace(
        __name__="cupy",
        cuda=SimpleNamespace(is_available=lambda: True),
        ones=np.ones,
        asarray=np.asarray,
        tanh=np.tanh,
        zeros=np.zeros,
        marker="here",
    )
    for name, value in contents.items():
        setattr(fake, name, value)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    return fake


def raising(error):
    def function(*arguments, **options):
        raise error

    return function


# --- xp -------------------------------------------------------------------------------------------


def test_xp_is_numpy():
    assert xp.tanh is np.tanh
    assert xp.module is np
    assert repr(xp) == "<xp: numpy>"
    assert get_backend() == "numpy"
    with pytest.raises(AttributeError, match="nonsense"):
        xp.nonsense  # noqa: B018


def test_xp_changes_wherever_it_was_imported(monkeypatch):
    from minirnn import activations, packing  # noqa: F401

    install(monkeypatch)
    assert xp.ones is np.ones
    assert set_backend("cupy") == "cupy"
    assert get_backend() == "cupy"
    assert xp.marker == "here"
    assert activations.xp.marker == "here"
    assert set_backend("numpy") == "numpy"
    assert xp.tanh is np.tanh
    with pytest.raises(AttributeError):
        xp.marker  # noqa: B018


def test_no_name_goes_stale(monkeypatch):
    """A name that was used under one backend is looked up anew under the other."""
    install(monkeypatch, tanh="the tanh of CuPy")
    assert xp.tanh is np.tanh
    set_backend("cupy")
    assert xp.tanh == "the tanh of CuPy"
    set_backend("numpy")
    assert xp.tanh is np.tanh


# --- choosing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["torch", "NumPy", "", None, 3, ["numpy"]])
def test_unknown_backends_are_refused(name):
    with pytest.raises(ValueError, match="backend: expected one of numpy, cupy, auto; received"):
        set_backend(name)
    assert get_backend() == "numpy"


BROKEN = {
    "not installed": (
        lambda m: m.setitem(sys.modules, "cupy", None),
        r"CuPy is not installed. `pip install \"minirnn\[cuda12\]\"`",
    ),
    "not available": (
        lambda m: install(m, cuda=SimpleNamespace(is_available=lambda: False)),
        "there is no usable GPU or driver",
    ),
    "driver error": (
        lambda m: install(m, cuda=SimpleNamespace(is_available=raising(RuntimeError("no driver")))),
        r"its GPU fails \(RuntimeError: no driver\)",
    ),
    "no cuda": (lambda m: install(m, cuda=None), r"its GPU fails \(AttributeError"),
    "computation": (
        lambda m: install(m, ones=raising(OSError("libcublas.so.12 not found"))),
        r"its GPU fails \(OSError: libcublas.so.12 not found\)",
    ),
    "wrong numbers": (
        lambda m: install(m, ones=lambda *a, **k: np.full((2, 2), 2.0)),
        r"computes wrong numbers \(36.0, not 12\)",
    ),
    "nan": (
        lambda m: install(m, ones=lambda *a, **k: np.full((2, 2), np.nan)),
        r"computes wrong numbers \(nan, not 12\)",
    ),
}


def caught(action):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = action()
    return result, seen


@pytest.mark.parametrize("asked", ["cupy", "auto"])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_cupy_falls_back_with_one_warning(kind, asked, monkeypatch):
    plant, reason = BROKEN[kind]
    plant(monkeypatch)
    chosen, seen = caught(lambda: set_backend(asked))
    assert chosen == get_backend() == "numpy"
    assert xp.module is np
    if kind == "not installed" and asked == "auto":
        assert seen == []
        return
    (warning,) = seen
    assert warning.category is RuntimeWarning
    assert str(warning.message).startswith("minirnn computes with NumPy: CuPy is ")
    assert re.search(reason, str(warning.message))
    assert warning.filename == __file__


@pytest.mark.parametrize("asked", ["cupy", "auto"])
def test_a_working_cupy_is_taken_silently(asked, monkeypatch):
    install(monkeypatch)
    chosen, seen = caught(lambda: set_backend(asked))
    assert chosen == "cupy"
    assert seen == []


def test_a_failed_choice_leaves_cupy_behind(monkeypatch):
    install(monkeypatch)
    set_backend("cupy")
    install(monkeypatch, cuda=SimpleNamespace(is_available=lambda: False))
    caught(lambda: set_backend("cupy"))
    assert get_backend() == "numpy"


# --- in a process of its own, from the environment ------------------------------------------------


def run(code="", cupy=None, folder=None, **environment):
    """What a new process says of its backend, with `cupy` as the source of a fake module."""
    if cupy is not None:
        (folder / "cupy.py").write_text(textwrap.dedent(cupy), encoding="utf-8")
        environment["PYTHONPATH"] = str(folder)
    kept = {k: v for k, v in os.environ.items() if k not in ("MINIRNN_BACKEND", "PYTHONPATH")}
    code = code or "import minirnn; print(minirnn.get_backend())"
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        capture_output=True,
        text=True,
        env=kept | environment,
    )


def test_the_environment_chooses():
    done = run(MINIRNN_BACKEND="numpy")
    assert (done.stdout, done.stderr) == ("numpy\n", "")
    done = run(MINIRNN_BACKEND="tpu")
    assert done.returncode != 0
    assert "MINIRNN_BACKEND: expected one of numpy, cupy, auto; received 'tpu'" in done.stderr


FAKES = {
    "import error": ("raise ImportError('libcuda.so.1: cannot open')", "ImportError: libcuda.so.1"),
    "os error": ("raise OSError('nvrtc is missing')", "OSError: nvrtc is missing"),
    "part missing": ("import cupy_backends_that_is_missing", "No module named 'cupy_backends"),
    "syntax error": ("this is no Python", "SyntaxError"),
    "no gpu": (
        """
        class cuda:
            is_available = staticmethod(lambda: False)
        """,
        "no usable GPU or driver",
    ),
    "exit": ("raise RuntimeError('CUDA initialization failed')", "CUDA initialization failed"),
}


@pytest.mark.parametrize("kind", FAKES)
def test_a_fake_cupy_on_the_path(kind, tmp_path):
    source, reason = FAKES[kind]
    done = run(cupy=source, folder=tmp_path, MINIRNN_BACKEND="cupy")
    assert done.stdout == "numpy\n"
    assert done.stderr.count("RuntimeWarning: minirnn computes with NumPy") == 1
    assert reason in done.stderr
    assert done.returncode == 0


def test_a_working_fake_on_the_path(tmp_path):
    source = """
        from numpy import *
        class cuda:
            is_available = staticmethod(lambda: True)
        """
    done = run(cupy=source, folder=tmp_path, MINIRNN_BACKEND="auto")
    assert (done.stdout, done.stderr) == ("cupy\n", "")


def test_cupy_is_not_even_imported_unless_asked_for(tmp_path):
    done = run(cupy="raise SystemExit('imported')", folder=tmp_path)
    assert (done.stdout, done.stderr) == ("numpy\n", "")


# --- moving arrays --------------------------------------------------------------------------------


def test_arrays_move_without_copies():
    array = np.arange(3.0)
    assert to_device(array) is array
    assert to_host(array) is array
    assert to_device([1, 2], dtype="float32").dtype == np.float32
    assert to_host([1, 2]).tolist() == [1, 2]


def test_to_host_takes_from_the_device():
    assert to_host(SimpleNamespace(get=lambda: np.arange(2))).tolist() == [0, 1]


def test_sums_of_runs():
    rows = np.random.default_rng(0).normal(size=(7, 3))
    sums = sum_runs(rows, np.array([0, 2, 3]))
    np.testing.assert_allclose(sums, [rows[:2].sum(0), rows[2], rows[3:].sum(0)])


# --- float type -----------------------------------------------------------------------------------


def test_floatx():
    assert backend.floatx() == np.float32
    try:
        for given in ("float64", np.float64, np.dtype("float64")):
            backend.set_floatx("float32")
            backend.set_floatx(given)
            assert backend.floatx() == np.float64
            assert initializers.GlorotUniform()((2, 3)).dtype == np.float64
    finally:
        backend.set_floatx("float32")
    assert initializers.GlorotUniform()((2, 3)).dtype == np.float32


@pytest.mark.parametrize(
    "dtype",
    [
        "float16",
        "int32",
        np.complex64,
        "bfloat16",
        "flaot32",
        None,
    ],
)
def test_other_types_are_refused(dtype):
    try:
        with pytest.raises(ValueError, match="floatx: expected float32 or float64, received"):
            backend.set_floatx(dtype)
        assert backend.floatx() == np.float32
    finally:
        backend.set_floatx("float32")


# --- random numbers -------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_numbers():
    def draw(seed):
        backend.set_random_seed(seed)
        return [initializers.Orthogonal()((3, 5)).tobytes(), backend.generator().random()]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_the_seed_moves_on():
    backend.set_random_seed(1)
    first = initializers.RandomNormal()((4,))
    assert (first != initializers.RandomNormal()((4,))).any()


def test_the_random_numbers_of_numpy_are_left_alone():
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    backend.set_random_seed(1)
    initializers.RandomNormal()((4,))
    assert np.random.random() == expected  # noqa: NPY002


def test_both_backends_start_alike(monkeypatch):
    """Weights are drawn on the host, whatever the backend."""
    from minirnn.layers import Dense

    def kernel():
        backend.set_random_seed(4)
        layer = Dense(3)
        layer.build((None, 2))
        return layer.params["kernel"].copy()

    expected = kernel()
    install(monkeypatch)
    set_backend("cupy")
    np.testing.assert_array_equal(kernel(), expected)
