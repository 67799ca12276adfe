"""How weights start."""

from __future__ import annotations

import numpy as np
import pytest

from minirnn import initializers
from minirnn.backend import set_floatx, set_random_seed
from minirnn.initializers import (
    NAMES,
    Constant,
    GlorotUniform,
    HeUniform,
    Initializer,
    Ones,
    Orthogonal,
    RandomNormal,
    RandomUniform,
    Zeros,
    fans,
)

SEEDED = [GlorotUniform, HeUniform, Orthogonal, RandomNormal, RandomUniform]
seeded = pytest.mark.parametrize("initializer", SEEDED)


def test_constants():
    assert (Zeros()((2, 3)) == 0).all()
    assert (Ones()((2, 3)) == 1).all()
    assert (Constant(0.25)((2, 3)) == 0.25).all()
    table = np.arange(6.0).reshape(2, 3)
    values = Constant(table)((2, 3))
    assert np.array_equal(values, table) and values is not table
    values[...] = 9  # a copy, to be written to
    assert np.array_equal(Constant(table)((2, 3)), table)
    with pytest.raises(
        ValueError, match=r"the weight has shape \(3, 2\), the given array has \(2, 3\)"
    ):
        Constant(table)((3, 2))


@pytest.mark.parametrize(
    ("initializer", "limit"),
    [
        (GlorotUniform(seed=1), np.sqrt(6 / (31 + 4 * 37))),
        (HeUniform(seed=1), np.sqrt(6 / 31)),
        (RandomUniform(seed=1), 0.05),
        (RandomUniform(-0.3, 0.3, seed=1), 0.3),
    ],
)
def test_uniform_draws_fill_their_range(initializer, limit):
    draw = initializer((31, 4 * 37), dtype="float64")
    assert -limit <= draw.min() < -0.99 * limit and 0.99 * limit < draw.max() <= limit
    assert abs(draw.mean()) < 4 * limit / np.sqrt(3 * draw.size)
    np.testing.assert_allclose(draw.std(), limit / np.sqrt(3), rtol=0.03)


def test_an_uneven_range():
    draw = RandomUniform(1.0, 3.0, seed=1)((31, 37))
    assert 1 <= draw.min() < 1.02 and 2.98 < draw.max() < 3


def test_normal():
    draw = RandomNormal(0.5, 0.1, seed=2)((101, 103), dtype="float64")
    np.testing.assert_allclose(draw.mean(), 0.5, atol=0.004)
    np.testing.assert_allclose(draw.std(), 0.1, rtol=0.03)


@pytest.mark.parametrize(("rows", "columns"), [(5, 20), (20, 5), (7, 7), (1, 4)])
def test_orthogonal_is_orthonormal_as_a_whole(rows, columns):
    q = Orthogonal(seed=3)((rows, columns), dtype="float64")
    assert q.shape == (rows, columns)
    product = q @ q.T if rows <= columns else q.T @ q
    np.testing.assert_allclose(product, np.eye(min(rows, columns)), atol=1e-12)
    doubled = Orthogonal(gain=2.0, seed=3)((rows, columns), dtype="float64")
    np.testing.assert_allclose(doubled, 2 * q)


def test_orthogonal_is_uniform():
    """Without the signs of QR's diagonal, the first column would lean to one side."""
    draws = np.stack([Orthogonal(seed=k)((3, 3), dtype="float64") for k in range(400)])
    assert np.abs(draws.mean(axis=0)).max() < 4 * draws.std() / 20


def test_orthogonal_needs_a_matrix():
    with pytest.raises(ValueError, match=r"Orthogonal: expected a shape of two dimensions.*\(3,\)"):
        Orthogonal()((3,))


def test_fans():
    assert fans((3, 5)) == (3, 5)
    assert fans((7,)) == (7, 7)
    assert fans(()) == (1, 1)


@seeded
def test_a_seed_gives_the_same_values_at_every_call(initializer):
    one = initializer(seed=4)
    assert np.array_equal(one((3, 5)), one((3, 5)))
    assert np.array_equal(one((3, 5)), initializer(seed=4)((3, 5)))
    assert not np.array_equal(one((3, 5)), initializer(seed=5)((3, 5)))


@seeded
def test_without_a_seed_the_common_generator_is_used(initializer):
    set_random_seed(6)
    first, second = initializer()((3, 5)), initializer()((3, 5))
    set_random_seed(6)
    assert np.array_equal(initializer()((3, 5)), first)
    assert not np.array_equal(first, second)


def test_a_seeded_draw_leaves_the_common_generator_alone():
    set_random_seed(7)
    expected = GlorotUniform()((3, 5))
    set_random_seed(7)
    GlorotUniform(seed=1)((3, 5))
    assert np.array_equal(GlorotUniform()((3, 5)), expected)


@seeded
def test_split_gives_children_with_seeds_of_their_own(initializer):
    one, two = initializer(seed=8).split(2)
    again, _ = initializer(seed=8).split(2)
    shape = (3, 5)
    assert not np.array_equal(one(shape), two(shape))
    assert np.array_equal(one(shape), again(shape))
    assert not np.array_equal(one(shape), initializer(seed=8)(shape))
    assert all(twin.seed is None for twin in initializer().split(2))


def test_split_keeps_the_other_arguments():
    for twin in RandomUniform(-0.7, 0.7, seed=1).split(2):
        assert (twin.minval, twin.maxval) == (-0.7, 0.7)
    assert all((twin((2,)) == 0.5).all() for twin in Constant(0.5).split(3))


def test_dtype():
    assert GlorotUniform()((2, 3)).dtype == np.float32
    assert GlorotUniform()((2, 3), dtype="float64").dtype == np.float64
    set_floatx("float64")
    try:
        assert Orthogonal()((2, 3)).dtype == np.float64
    finally:
        set_floatx("float32")


@pytest.mark.parametrize("name", NAMES)
def test_every_name(name):
    initializer = initializers.get(name)
    assert isinstance(initializer, NAMES[name])
    draw = initializer((3, 5))
    assert draw.shape == (3, 5) and np.isfinite(draw).all()
    twin = type(initializer)(**initializer.get_config())
    assert twin.get_config() == initializer.get_config()


def test_get():
    one = Constant(3)
    assert initializers.get(one) is one
    assert isinstance(initializers.get(Orthogonal), Orthogonal)
    with pytest.raises(ValueError, match="'glorot'.* Did you mean 'glorot_uniform'"):
        initializers.get("glorot")
    with pytest.raises(TypeError, match="initializer: expected a name or an object, received 0.5"):
        initializers.get(0.5)
    assert repr(GlorotUniform(seed=3)) == "GlorotUniform(seed=3)"


def test_an_initializer_of_ones_own():
    class Diagonal(Initializer):
        def __init__(self, value=2.0):
            self.value = value

        def draw(self, shape, random):
            return self.value * np.eye(*shape)

    draw = initializers.get(Diagonal(3.0))((2, 3))
    assert draw.tolist() == [[3, 0, 0], [0, 3, 0]] and draw.dtype == np.float32

    class Empty(Initializer):
        pass

    with pytest.raises(NotImplementedError, match="Empty draws nothing"):
        Empty()((2, 3))
