"""The stand-in for CuPy: does it bite?"""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from strict_cupy import MixError, SyncError, counted, cupy, installed, no_sync

from minirnn.backend import get_backend, set_backend, to_device, to_host, xp

HOST = np.arange(6.0).reshape(2, 3)


@pytest.fixture
def a():
    return cupy.array(HOST)


# --- host and device do not mix -------------------------------------------------------------------

MIXTURES = {
    "asarray": lambda a: np.asarray(a),
    "array of arrays": lambda a: np.array([a]),
    "buffer": lambda a: memoryview(a),
    "operator": lambda a: a + HOST,
    "operator, swapped": lambda a: HOST + a,
    "comparison": lambda a: a > HOST,
    "product": lambda a: a @ HOST.T,
    "product, swapped": lambda a: HOST @ a.T,
    "in place": lambda a: a.__iadd__(HOST),
    "in place, into the host": lambda a: HOST.copy().__iadd__(a),
    "a number without axes": lambda a: a * np.array(2.0),
    "ufunc": lambda a: cupy.maximum(a, HOST),
    "ufunc of numpy": lambda a: np.maximum(HOST, a),
    "out": lambda a: cupy.exp(a, out=HOST.copy()),
    "function": lambda a: cupy.where(a > 2, a, HOST),
    "function of numpy": lambda a: np.concatenate([HOST, a]),
    "method": lambda a: a.dot(HOST.T),
    "method of the host": lambda a: HOST.dot(a.T),
    "list in a function": lambda a: cupy.take(a, [0, 1], axis=0),
    "list in a ufunc": lambda a: cupy.add(a, [1, 2, 3]),
    "list in an operator": lambda a: a + [1, 2, 3],
    "index": lambda a: a[np.array([0, 1])],
    "index of the host": lambda a: HOST[a[0].astype(int)],
    "list as an index": lambda a: a[[0, 1]],
    "list as a part of an index": lambda a: a[:, [0, 1]],
    "stored": lambda a: a.__setitem__(0, HOST[0]),
    "stored in the host": lambda a: HOST.copy().__setitem__(0, a[0]),
    "stored list": lambda a: a.__setitem__(0, [1, 2, 3]),
}


@pytest.mark.parametrize("kind", MIXTURES)
def test_mixtures_are_refused(kind, a):
    with pytest.raises((TypeError, ValueError)) as caught:
        MIXTURES[kind](a)
    assert isinstance(caught.value, MixError) or "device" in str(caught.value) or kind == "buffer"
    assert to_host(a).tolist() == HOST.tolist()


def test_scalars_mix():
    single = cupy.array(HOST, dtype="float32")
    for scalar in (2, 2.0, True, np.float32(2), 2j):
        expected = HOST.astype("float32") * scalar
        for product in (single * scalar, scalar * single, cupy.multiply(single, scalar)):
            assert product.dtype == expected.dtype
            np.testing.assert_array_equal(to_host(product), expected)


def test_a_scalar_of_numpy_is_as_wide_as_it_says():
    single = cupy.array(HOST, dtype="float32")
    assert (single * 2.0).dtype == np.float32
    assert (single * np.float64(2)).dtype == np.float64


# --- only what CuPy has ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["errstate", "block", "insert", "nditer", "longdouble", "vecdot"])
def test_names_that_cupy_lacks(name):
    assert not hasattr(cupy, name)


@pytest.mark.parametrize(
    "call",
    [
        lambda a: cupy.take(a, 0, axis=0, mode="clip"),
        lambda a: cupy.sum(a, where=a > 2),
        lambda a: a.max(initial=0),
        lambda a: a.sum(axis=1, where=a > 2),
        lambda a: a.item(0),
    ],
)
def test_arguments_that_cupy_lacks(call, a):
    with pytest.raises(TypeError):
        call(a)


@pytest.mark.parametrize("method", ["reduceat", "at", "outer", "reduce", "accumulate"])
def test_methods_of_ufuncs_are_left_out(method, a):
    assert not hasattr(cupy.add, method)
    with pytest.raises((TypeError, ValueError)):
        getattr(np.add, method)(a, a)


def test_out_of_a_product_is_contiguous(a):
    with pytest.raises(ValueError, match="C-contiguous"):
        cupy.dot(a, a.T, out=cupy.empty((2, 4))[:, ::2])


def test_text_has_no_place_on_a_device():
    for values in (["a"], np.array([None])):
        with pytest.raises(ValueError, match="Unsupported dtype"):
            cupy.array(values)


# --- undefined on a device ------------------------------------------------------------------------


def test_a_place_may_be_written_once_only(a):
    rows = cupy.array([1, 1])
    with pytest.raises(ValueError, match="twice"):
        a[rows] = a
    with pytest.raises(ValueError, match="twice"):
        a[rows, cupy.array([2, 2])] = cupy.zeros(2)
    with pytest.raises(ValueError, match="twice"):
        a[cupy.array([1, -1])] = a
    a[rows] = 7  # the same number twice does no harm
    a[rows, cupy.array([0, 1])] = cupy.zeros(2)
    assert to_host(a).tolist() == [[0, 1, 2], [0, 0, 7]]


def test_indices_out_of_bounds_go_round(a):
    rows = cupy.array([2, 5])
    for taken in (a[rows], a.take(rows, axis=0), cupy.take(a, rows, axis=0)):
        np.testing.assert_array_equal(to_host(taken), HOST[[0, 1]])
    np.testing.assert_array_equal(to_host(a[..., cupy.array([4])]), HOST[:, [1]])
    with pytest.raises(IndexError):
        a[2]


def test_memory_is_not_clean():
    assert np.isnan(to_host(cupy.empty((2, 2), "float32"))).all()
    assert to_host(cupy.empty_like(cupy.zeros(2, int))).tolist() == [np.iinfo(int).max] * 2


# --- what is counted ------------------------------------------------------------------------------


def test_operations_are_counted_but_not_views(a):
    with counted() as counts:
        views = a.T[1:].reshape(2, 2, 1)[::-1, None], a.real, a[..., 0], a.reshape(-1)
        assert all(np.may_share_memory(view._a, a._a) for view in views)
    assert counts.ops == 0
    with counted() as counts:
        a += a
        (a @ a.T).sum(axis=0)
        a[:1] = 0
        a.astype("float32")
    assert (counts.ops, counts.h2d, counts.d2h, counts.syncs) == (5, 0, 0, 0)


def test_copies_are_counted(a):
    with counted() as counts:
        cupy.asarray(HOST)
        cupy.asarray(a)
        cupy.array([1, 2])
        a.get()
        cupy.asnumpy(a)
        to_host(a)
    assert (counts.h2d, counts.d2h, counts.syncs) == (2, 3, 3)


WAITS = {
    "bool": lambda a: bool((a > 2).any()),
    "float": lambda a: float(a.sum()),
    "int": lambda a: int(a.sum()),
    "index": lambda a: range(10)[a.argmax()],
    "item": lambda a: a[0, 0].item(),
    "tolist": lambda a: a.tolist(),
    "get": lambda a: a.get(),
    "repr": lambda a: repr(a),
    "format": lambda a: f"{a.sum():.3f}",
    "mask": lambda a: a[a > 2],
    "mask written": lambda a: a.__setitem__(a > 2, 0),
    "nonzero": lambda a: a.nonzero(),
    "flatnonzero": lambda a: cupy.flatnonzero(a),
    "where": lambda a: cupy.where(a > 2),
    "unique": lambda a: cupy.unique(a),
    "max of two": lambda a: max(a[0, 0], a[0, 1]),
}


@pytest.mark.parametrize("kind", WAITS)
def test_waiting_is_seen(kind, a):
    with counted() as counts:
        WAITS[kind](a)
    assert counts.syncs == 1
    with no_sync(), pytest.raises(SyncError, match="the host would wait"):
        WAITS[kind](a)


def test_what_does_not_wait(a):
    with no_sync():
        cupy.where(a > 2, a, 0).argmax(axis=0)
        assert len([row * 2 for row in a]) == len(a) == 2
        a.any()
        copy.deepcopy(a)


# --- as an array ----------------------------------------------------------------------------------


def test_results_are_those_of_numpy(a):
    np.testing.assert_array_equal(to_host(-a / 2 + 1), -HOST / 2 + 1)
    np.testing.assert_array_equal(to_host(1 / (a + 1)), 1 / (HOST + 1))
    np.testing.assert_array_equal(to_host(np.tanh(a)), np.tanh(HOST))
    np.testing.assert_array_equal(to_host(a.mean(axis=1, keepdims=True)), [[1], [4]])
    assert a.sum().shape == ()
    assert isinstance(a.sum(), cupy.ndarray)


def test_a_single_number_is_a_view(a):
    number = a[1, 2]
    assert number.shape == ()
    a[1, 2] = 7
    assert float(number) == 7


def test_what_kernels_ask_of_an_array(a):
    assert a.data.ptr == a._a.ctypes.data
    assert a.T.data.ptr == a.data.ptr
    assert a[1:].data.ptr == a.data.ptr + a.strides[0]
    assert a.flags.c_contiguous
    assert not a.T.flags.c_contiguous
    assert a.T.flags.f_contiguous
    assert (a.strides, a.nbytes, a.itemsize) == ((24, 8), 48, 8)
    assert (a.T + 0).flags.c_contiguous
    assert cupy.ascontiguousarray(a) is a


def test_arrays_can_be_copied_and_pickled(a):
    for twin in (copy.copy(a), copy.deepcopy(a), a.copy(), pickle.loads(pickle.dumps(a))):
        assert twin is not a
        assert twin.data.ptr != a.data.ptr
        np.testing.assert_array_equal(to_host(twin), HOST)


def test_it_is_taken_for_cupy():
    with installed() as module:
        assert get_backend() == "cupy"
        assert xp.module is module is cupy
        assert isinstance(to_device(HOST), cupy.ndarray)
    assert get_backend() == "numpy"
    with pytest.warns(RuntimeWarning):
        assert set_backend("cupy") == "numpy"
