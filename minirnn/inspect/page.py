"""One page of HTML that shows what `trace` saw: to step through, token by token, and back again.

The page holds everything itself: it loads nothing. Its numbers stand in it with 16 bits each, and a
factor for every step, which keeps the page small, and small gradients exact to four digits.
"""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minirnn.checks import listed

TEMPLATE = Path(__file__).with_name("page.html")
LARGEST = 2**15 - 1
MOST_BYTES = 1_000_000


def html_page(trace: Any, classes: Sequence[str] | None = None, title: str | None = None) -> str:
    """The page.

    Args:
        trace: what `minirnn.inspect.trace` gave.
        classes: a name for each class; numbers if not given.
        title: of the page; the text itself if not given.

    Raises:
        ValueError: if there are not as many names as classes, or the page would be larger than
            1 MB: the text is then too long for this model.
    """
    count = trace.probabilities.shape[1]
    names = (
        [f"class {c}" for c in range(count)]
        if classes is None
        else list(map(str, listed("classes", classes)))
    )
    if len(names) != count:
        raise ValueError(f"classes: expected {count} names, one a class, received {len(names)}")
    data = {
        "tokens": list(trace.tokens),
        "known": trace.known.tolist(),
        "mask": trace.mask.tolist(),
        "classes": names,
        "target": int(trace.target),
        "probabilities": numbers(trace.probabilities),
        "prediction": numbers(trace.prediction),
        "saliency_norm": numbers(trace.saliency_norm),
        "layers": [layer_data(layer) for layer in trace.layers],
    }
    title = " ".join(trace.tokens) if title is None else title
    # Nothing in the data can end the script element that holds it.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    page = TEMPLATE.read_text(encoding="utf-8").replace("__TITLE__", html.escape(title))
    page = page.replace("__DATA__", text)
    if len(page.encode("utf-8")) > MOST_BYTES:
        raise ValueError(
            f"trace: {len(trace.tokens)} tokens of this model make a page of "
            f"{len(page.encode('utf-8')):,} bytes, and {MOST_BYTES:,} is the limit; trace less text"
        )
    return page


def write_page(
    path: str | os.PathLike[str],
    trace: Any,
    classes: Sequence[str] | None = None,
    title: str | None = None,
) -> None:
    """Write the page of `html_page` into a file."""
    Path(path).write_text(html_page(trace, classes, title), encoding="utf-8")


def layer_data(layer: Any) -> dict[str, Any]:
    """What the page shows of one layer and direction."""
    return {
        "name": layer.name,
        "cell": layer.cell,
        "direction": layer.direction,
        "usual": layer.usual,
        "mask": layer.mask.tolist(),
        "states": {name: packed(array) for name, array in layer.states.items()},
        "gates": {name: packed(array) for name, array in layer.gates.items()},
        "gradients": {name: packed(array) for name, array in layer.gradients.items()},
        "gradient_norm": {name: numbers(array) for name, array in layer.gradient_norm.items()},
    }


def numbers(array: np.ndarray) -> Any:
    """Nested lists of numbers with five digits; what is not finite is null."""
    if array.ndim > 1:
        return [numbers(row) for row in array]
    return [float(f"{x:.5g}") if np.isfinite(x) else None for x in array.tolist()]


def packed(array: np.ndarray) -> dict[str, Any]:
    """(T, U) as whole numbers of 16 bits, in base64, and a factor for each step."""
    array = np.nan_to_num(np.asarray(array, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    largest = np.abs(array).max(axis=1, initial=0.0)
    factors = np.where(largest > 0, largest, 1.0) / LARGEST
    whole = np.rint(array / factors[:, None]).astype("<i2")
    text = base64.b64encode(whole.tobytes()).decode("ascii")
    return {"numbers": text, "factors": [float(f"{x:.7g}") for x in factors]}
