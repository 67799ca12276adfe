"""Data parallel training on several processes; begin to read in ranks.py."""

from minirnn.parallel.ranks import Ranks, launched, told_by_first, world

__all__ = ["Ranks", "launched", "told_by_first", "world"]
