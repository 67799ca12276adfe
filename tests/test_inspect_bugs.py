"""The gallery of bugs: a gradient check sees each, it is gone after its block, and most learn."""

from __future__ import annotations

import inspect
from contextlib import ExitStack

import numpy as np
import pytest
from device_cases import compare

from minirnn import Sequential, compiled, gradcheck, set_random_seed, steps, timeloop
from minirnn.backend import generator, to_device, to_host
from minirnn.base import RowGradient
from minirnn.cells import LSTMCell, SimpleRNNCell
from minirnn.inspect import bugs
from minirnn.inspect.gallery import BUGS
from minirnn.layers import GRU, LSTM, Dense, Embedding, SimpleRNN, bidirectional
from minirnn.layers import LSTMCell as LSTMCellLayer
from minirnn.steps import loss_and_gradients

EVERY = pytest.mark.parametrize("name", BUGS)


@pytest.fixture(params=["compiled", "plain"])
def loops(request, monkeypatch):
    """Once with the compiled loops, if there are any, and once with those of the cells."""
    if request.param == "compiled":
        pytest.importorskip("numba", reason="the compiled loops need Numba")
        monkeypatch.delenv(compiled.ENVIRONMENT_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(compiled.ENVIRONMENT_VARIABLE, "0")
    compiled._kernels.cache_clear()
    yield request.param
    monkeypatch.undo()
    compiled._kernels.cache_clear()


def replaced():
    """Every function that a bug, or planting itself, replaces, as it is now."""
    places = {(owner, key) for bug in BUGS.values() for owner, key in bug.places}
    places |= {(timeloop, "loops"), (bidirectional, "loops"), (steps, "training_graph")}
    return {(owner, key): vars(owner)[key] for owner, key in places}


def model_for(name):
    """A model that the bug hits, in float32, with a batch of padded rows and their labels."""
    set_random_seed(5)
    model = Sequential(
        [Embedding(13, 5, mask_zero=True), *BUGS[name].layers(), Dense(4, activation="softmax")]
    )
    model.build()
    model.compile("adam", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(3)
    for value in model.params.values():
        value[...] = to_device(rng.normal(scale=0.5, size=value.shape))
    ids = rng.integers(1, 13, (7, 11))
    ids[np.arange(11) >= rng.integers(1, 12, (7, 1))] = 0
    return model, ids, rng.integers(0, 4, 7)


def gradients(name):
    """Those of `model_for(name)`, dropout included, and always the same."""
    model, x, y = model_for(name)
    set_random_seed(11)
    loss, grads, _, _ = loss_and_gradients(model, x, y)
    shapes = {key: value.shape for key, value in model.params.items()}
    dense = {
        key: to_host(g.dense(shapes[key]) if isinstance(g, RowGradient) else g)
        for key, g in grads.items()
    }
    return dense | {"loss": np.asarray(to_host(loss))}


def distance(one, other):
    """The largest difference beside the largest number, of the weight that differs most."""
    assert one.keys() == other.keys()
    return max(float(abs(one[k] - other[k]).max() / (abs(one[k]).max() + 1e-3)) for k in one)


# ---------------------------------------------------------------- every bug


@EVERY
def test_the_gradient_check_sees_it_and_it_is_gone_afterwards(name):
    before = replaced()
    with bugs.planted(name):
        report = bugs.check(name)
    assert not report.passed
    assert replaced() == before
    bugs.check(name).raise_on_failure()


@EVERY
def test_it_changes_gradients_with_and_without_compiled_loops_and_no_bit_afterwards(name, loops):
    right = gradients(name)
    with bugs.planted(name):
        wrong = gradients(name)
    again = gradients(name)
    assert all(np.array_equal(right[key], again[key]) for key in right)
    assert np.allclose(right["loss"], wrong["loss"], rtol=1e-5)  # forward passes are all right
    assert distance(right, wrong) > 1e-2


@EVERY
def test_it_computes_the_same_wrong_gradients_on_the_stand_in_for_cupy(name):
    with bugs.planted(name):
        compare(lambda: gradients(name))


@EVERY
def test_the_loss_falls_all_the_same(name):
    result = bugs.exercise(name)
    assert len(result.losses) == len(result.sound) == 5
    assert result.sound[-1] < 0.5 * result.sound[0]
    if BUGS[name].learns:
        assert result.learned
    else:
        assert result.losses[-1] > 2 * result.sound[-1]


@EVERY
def test_a_description_gives_nothing_away_unless_asked(name):
    bug = BUGS[name]
    told, spoiled = bugs.describe(name), bugs.describe(name, spoiler=True)
    assert told.splitlines() == [name, f"  symptom: {bug.symptom}", f"  hint: {bug.hint}"]
    assert spoiled.startswith(told + f"\n  cause: {bug.cause}")
    assert f"- {bug.right.splitlines()[0].strip()}" in spoiled
    assert f"+ {bug.wrong.splitlines()[0].strip()}" in spoiled


# ---------------------------------------------------------------- the hints


def failing(name, thing, **options):
    with bugs.planted(name):
        return {row.name for row in gradcheck(thing, **options).failures}


def test_what_the_hints_say_is_so():
    rng = np.random.default_rng(1)
    one, two = rng.normal(size=(2, 1, 5)), rng.normal(size=(2, 2, 5))
    assert failing("recurrent-gradient-dropped", SimpleRNN(3), x=one) == {"initial h"}
    assert failing("carry-not-reset", SimpleRNN(3), x=one) == {"initial h"}
    assert failing("bias-of-one-step", LSTM(3), x=one[:1]) == set()
    swapped = failing("gates-swapped", LSTMCellLayer(3))
    assert {n[-3:] for n in swapped if n.endswith("]")} == {"[i]", "[f]"}
    dropped = failing("cell-gradient-dropped", LSTM(3), x=two)
    assert {n[-3:] for n in dropped if n.endswith("]")} == {"[i]", "[f]", "[c]"}
    reset = failing("reset-gate-forgotten", GRU(3), x=one)
    assert reset == {"bias[h]", "recurrent_kernel[h]", "initial h"}
    assert failing("repeated-ids-not-summed", Embedding(11, 3), x=np.array([[1, 2], [3, 4]])) == (
        set()
    )
    assert failing("direction-not-reversed", bidirectional.Bidirectional(LSTM(3))) == set()
    assert failing("activation-skipped", Dense(3)) == set()
    spared = failing("state-after-for-state-before", LSTM(3))
    assert {n.split("[")[0] for n in spared} == {"recurrent_kernel"}


# ---------------------------------------------------------------- planting


def test_there_are_many():
    assert len(bugs.names()) >= 12
    assert bugs.names() == tuple(BUGS)


@pytest.mark.parametrize("use", [bugs.describe, bugs.check, bugs.exercise])
def test_an_unknown_name(use):
    with pytest.raises(ValueError, match="'gates-swaped'. Did you mean 'gates-swapped'"):
        use("gates-swaped")
    with pytest.raises(ValueError, match="Did you mean"), bugs.planted("gates-swaped"):
        pass


def test_it_is_gone_after_an_error():
    before = replaced()
    with pytest.raises(ZeroDivisionError), bugs.planted("gates-swapped"):
        assert replaced() != before
        raise ZeroDivisionError
    assert replaced() == before


def test_a_block_inside_a_block_of_the_same_bug_is_refused():
    before = replaced()
    with bugs.planted("gates-swapped"):
        inside = replaced()
        with pytest.raises(ValueError, match="'gates-swapped' is planted already"):
            bugs.planted("gates-swapped").__enter__()
        with pytest.raises(ValueError, match="planted already"):
            bugs.exercise("gates-swapped")
        assert replaced() == inside
    assert replaced() == before


def test_two_bugs_in_one_function():
    before = replaced()
    with bugs.planted("recurrent-kernel-not-transposed"):
        with bugs.planted("recurrent-gradient-dropped"):
            source = inspect.getsource(SimpleRNNCell.steps_backward)
            assert 'self.params["recurrent_kernel"])' in source
            assert "dh[...] = 0" in source
        source = inspect.getsource(SimpleRNNCell.steps_backward)
        assert "dot(da, U_T, dh)" in source and "recurrent_kernel" in source
    assert replaced() == before


def test_two_bugs_in_one_line_are_refused():
    before = replaced()
    with bugs.planted("recurrent-gradient-dropped"):
        with pytest.raises(ValueError, match="0 times; other bugs planted: recurrent-gradient"):
            bugs.planted("carry-not-reset").__enter__()
        assert "dh[...] = 0" in inspect.getsource(SimpleRNNCell.steps_backward)
    assert replaced() == before


def test_blocks_may_end_in_any_order():
    before = replaced()
    first, second = ExitStack(), ExitStack()
    first.enter_context(bugs.planted("cell-gradient-dropped"))
    second.enter_context(bugs.planted("gates-swapped"))
    first.close()
    assert "dc *= f" in inspect.getsource(LSTMCell.steps_backward)
    assert "(c_prev, g, i, tanh_c)" in inspect.getsource(LSTMCell.local_derivatives)
    second.close()
    assert replaced() == before


def test_a_line_that_has_moved_on_is_an_error(monkeypatch):
    before = replaced()
    moved = BUGS["gates-swapped"]._replace(right="no such line")
    monkeypatch.setitem(BUGS, "gates-swapped", moved)
    with pytest.raises(ValueError, match=r"'no such line' once in LSTMCell.local_derivatives"):
        bugs.planted("gates-swapped").__enter__()
    assert replaced() == before


def test_an_exercise_leaves_the_random_numbers_alone():
    set_random_seed(2)
    state = generator().bit_generator.state
    first = bugs.exercise("gates-swapped", rows=40, epochs=2)
    assert generator().bit_generator.state == state
    assert bugs.exercise("gates-swapped", rows=40, epochs=2) == first
    assert bugs.exercise("gates-swapped", rows=40, epochs=2, seed=1) != first
    lines = str(first).splitlines()
    assert lines[0].startswith("gates-swapped: training loss")
    assert [line.split()[0] for line in lines[1:]] == ["epoch", "1", "2"]
