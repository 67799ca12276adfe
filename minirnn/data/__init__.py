"""Data sets: a pipeline in the manner of tf.data, streams of files, AG News and its stand-in."""

from minirnn.data.ag_news import CLASS_NAMES, NewsData, Rows
from minirnn.data.ag_news import load as load_ag_news
from minirnn.data.dataset import AUTOTUNE, Dataset
from minirnn.data.stream import Stream

__all__ = ["AUTOTUNE", "CLASS_NAMES", "Dataset", "NewsData", "Rows", "Stream", "load_ag_news"]
