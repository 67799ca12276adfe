"""Finding things by their names."""

from __future__ import annotations

import pytest

from minirnn.lookup import by_name

TABLE = {"sparse_categorical_crossentropy": 1, "mse": 2, "mae": 3}


def test_a_name_is_found():
    assert by_name("loss", "mse", TABLE) == 2


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("sparse_categorical_crossentropi", "sparse_categorical_crossentropy"),
        ("SparseCategoricalCrossentropy", "sparse_categorical_crossentropy"),
        ("MSE", "mse"),
        ("ms", "mse"),
    ],
)
def test_the_nearest_is_named(name, near):
    with pytest.raises(ValueError) as caught:
        by_name("loss", name, TABLE)
    message = str(caught.value)
    assert message.startswith(f"loss: there is none called {name!r}. Did you mean {near!r}?")
    assert message.endswith("Known: sparse_categorical_crossentropy, mse, mae.")


@pytest.mark.parametrize("name", ["zzz", ""])
def test_nothing_is_guessed_where_nothing_is_near(name):
    with pytest.raises(ValueError) as caught:
        by_name("loss", name, TABLE)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("name", [None, 3, len, ["mse"], b"mse"])
def test_what_is_no_name(name):
    with pytest.raises(TypeError, match="loss: expected a name or an object, received"):
        by_name("loss", name, TABLE)
