"""Data sets: a lazy pipeline in the manner of tf.data, and AG News with its stand-in."""

from minirnn.data.ag_news import CLASS_NAMES, NewsData, Rows
from minirnn.data.ag_news import load as load_ag_news
from minirnn.data.dataset import AUTOTUNE, Dataset

__all__ = ["AUTOTUNE", "CLASS_NAMES", "Dataset", "NewsData", "Rows", "load_ag_news"]
