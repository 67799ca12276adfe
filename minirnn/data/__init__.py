"""Data for training: `Dataset`, a lazy pipeline in the manner of tf.data."""

from minirnn.data.dataset import AUTOTUNE, Dataset

__all__ = ["AUTOTUNE", "Dataset"]
