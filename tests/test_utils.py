"""The small helpers under Keras's names."""

from __future__ import annotations

import numpy as np
import pytest

from minirnn import utils
from minirnn.utils import to_categorical


def test_indicator_vectors():
    y = to_categorical([2, 0, 1])
    assert y.dtype == np.float32
    assert y.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert to_categorical([1], num_classes=4).tolist() == [[0, 1, 0, 0]]
    assert to_categorical(np.array([[1, 0], [2, 2]], "uint8")).shape == (2, 2, 3)
    np.testing.assert_array_equal(
        to_categorical([[1, 0], [2, 2]]).argmax(axis=-1), [[1, 0], [2, 2]]
    )


def test_no_labels():
    assert to_categorical(np.array([], dtype=int), num_classes=3).shape == (0, 3)


def test_a_column_of_labels_as_in_keras():
    assert to_categorical([[0], [1]]).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("labels", [[-1, 0], [0.5], ["a"], [True, False]])
def test_labels_that_are_no_classes(labels):
    with pytest.raises(ValueError, match="labels: expected whole numbers from 0 up"):
        to_categorical(labels)


def test_a_label_outside():
    with pytest.raises(ValueError, match=r"labels: class 3 is outside 0..2"):
        to_categorical([0, 3], num_classes=3)


def test_what_else_is_there():
    assert {"pad_sequences", "set_random_seed", "to_categorical"} <= set(dir(utils))
