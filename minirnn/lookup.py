"""Finding a thing by its name, with an error that helps when there is none of that name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def by_name(kind: str, name: object, table: Mapping[str, T]) -> T:
    """The entry of `table` called `name`.

    Raises:
        TypeError: if `name` is not a string.
        ValueError: if there is no such entry; the message names the nearest one and lists them all.
    """
    if not isinstance(name, str):
        raise TypeError(f"{kind}: expected a name or an object, received {name!r}")
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name.lower(), table, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{kind}: there is none called {name!r}.{hint} Known: {', '.join(table)}.")
