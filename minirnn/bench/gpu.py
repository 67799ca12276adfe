"""On a GPU: the lesson's models, and single layers of many sizes, beside PyTorch with cuDNN.

Everything runs in one process and in turn, on the same batches; a figure is the median of several
runs, each of many calls. PyTorch's batches lie on the device before the clock starts; minirnn's are
sent within the time that is measured, as `fit` sends them.

- *Lessons*: milliseconds of a training step. PyTorch with its fused Adam: eager (rows padded and,
  where the lesson masks, packed), compiled by `torch.compile`, and captured as one CUDA graph.
- *Epoch*: seconds of `fit` over 120,000 rows.
- *Loops*: microseconds that one step over time takes in our kernels, forward and backward.
- *Layers*: forward and backward of one layer, by units, length and batch, beside cuDNN's.
- *Floor*: what a step of a lesson cannot do without here: its launches within a graph, the bytes
  that Adam moves, and its multiplications, each at the speed measured on this device.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minirnn import layers
from minirnn.backend import get_backend, set_backend, to_device, xp
from minirnn.bench.lessons import CLASSES, LESSONS, VOCABULARY, Batch, Lesson, batches_of
from minirnn.bench.limits import layers_of, lengths_of
from minirnn.classifier import RECIPES
from minirnn.compiled_loops import loops
from minirnn.cuda.graph import training_graph
from minirnn.cuda.launches import Launch
from minirnn.cuda.modules import kernel
from minirnn.models import Sequential
from minirnn.packing import full_mask

SECONDS = 440  # for all parts; what there is no time left for is named
EPOCH = 120_000  # rows
COPIED, MULTIPLIED = 2**26, 4096  # numbers; rows and columns: what the device's speed is taken from
UNITS, LENGTHS, ROWS = (8, 16, 32, 64, 96, 128, 256, 512), (16, 64, 512), (8, 64, 512)
CELLS = {"SimpleRNN": layers.SimpleRNN, "LSTM": layers.LSTM, "GRU": layers.GRU}


def seconds_of(task: Callable[[], Any], wait: Callable[[], Any], least: float = 0.1) -> float:
    """The median of five means, each over about `least` / 5 seconds of calls."""
    task()
    wait()
    begun = time.perf_counter()
    task()
    wait()
    calls = max(1, int(least / 5 / max(time.perf_counter() - begun, 1e-6)))
    means = []
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(calls):
            task()
        wait()
        means.append((time.perf_counter() - begun) / calls)
    return statistics.median(means)


def wait_for_device() -> None:
    xp.cuda.Device().synchronize()


def in_turn(batches: list[Any], step: Callable[[Any], Any]) -> Callable[[], None]:
    """A task that trains on the next batch at each call."""
    following = itertools.cycle(batches)
    return lambda: step(next(following))


def or_why_not(measure: Callable[[], Any]) -> Any:
    """A figure, or, if it cannot be had here, the reason."""
    try:
        return measure()
    except Exception as error:  # a peer may fail in any way; the others are measured all the same
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:120]


# --- the lessons ----------------------------------------------------------------------------------


def our_model(lesson: Lesson) -> Any:
    """The lesson's model, without its vectorizer, compiled as the lesson does it."""
    recurrent = CELLS["LSTM" if lesson.cell == "lstm" else "SimpleRNN"]
    stack: list[Any] = [layers.Embedding(VOCABULARY, lesson.features, mask_zero=lesson.mask)]
    for i in range(lesson.layers):
        layer = recurrent(lesson.units, return_sequences=i < lesson.layers - 1)
        stack.append(layers.Bidirectional(layer) if lesson.bidirectional else layer)
    model = Sequential([*stack, layers.Dense(CLASSES, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", ["acc"])
    model.build()
    model.require_compiled()
    return model


def our_step(lesson: Lesson, batches: list[Batch]) -> float:
    """Seconds of a training step as one graph."""
    graph = training_graph(our_model(lesson))
    for batch in batches:  # every size is captured before the clock starts
        graph.step(*batch)
    graph.read()
    return seconds_of(in_turn(batches, lambda batch: graph.step(*batch)), graph.stream.synchronize)


def launches_of(lesson: Lesson, batch: Batch) -> int:
    graph = training_graph(our_model(lesson))
    graph.step(*batch)
    (size,) = graph.sizes.values()
    return len(size.launches)


def torch_steps(lesson: Lesson, batches: list[Batch], device: str) -> dict[str, Any]:
    """Setting → seconds of a training step in PyTorch."""
    import torch

    from minirnn.bench.peers.pytorch import Model

    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    loss_of = torch.nn.CrossEntropyLoss()

    def sent(batch: Batch, packed: bool = False) -> tuple[Any, Any, Any]:
        x, y = batch
        lengths = torch.from_numpy((x != 0).sum(axis=1)).clamp(min=1) if packed else None
        return torch.from_numpy(x).long().to(device), lengths, torch.from_numpy(y).long().to(device)

    def made(capturable: bool = False) -> tuple[Any, Any]:
        torch.manual_seed(1)
        model = Model(lesson).to(device)
        options = {"capturable": True} if capturable else {}
        optimizer = torch.optim.Adam(model.parameters(), 1e-3, eps=1e-7, fused=True, **options)
        return model, optimizer

    def eager(packed: bool = False, compiled: bool = False) -> float:
        model, optimizer = made()
        if compiled:
            model = torch.compile(model)
        of_torch = [sent(batch, packed) for batch in (by_sixteen if compiled else batches)]

        def step(batch: Any) -> None:
            x, lengths, y = batch
            optimizer.zero_grad(set_to_none=True)
            loss_of(model(x, lengths), y).backward()
            optimizer.step()

        for batch in of_torch:
            step(batch)
        return seconds_of(in_turn(of_torch, step), wait)

    def captured() -> float:
        model, optimizer = made(capturable=True)
        of_torch = [sent(batch) for batch in by_sixteen]
        graphs: dict[Any, tuple[Any, Any, Any]] = {}

        def run(x: Any, y: Any) -> None:
            optimizer.zero_grad(set_to_none=True)
            loss_of(model(x, None), y).backward()
            optimizer.step()

        for x, _, y in of_torch:
            if x.shape not in graphs:
                x_in, y_in, graph = x.clone(), y.clone(), torch.cuda.CUDAGraph()
                side = torch.cuda.Stream()
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):
                    for _ in range(3):
                        run(x_in, y_in)
                torch.cuda.current_stream().wait_stream(side)
                optimizer.zero_grad(set_to_none=True)
                with torch.cuda.graph(graph):
                    run(x_in, y_in)
                graphs[x.shape] = x_in, y_in, graph

        def step(batch: Any) -> None:
            x, _, y = batch
            x_in, y_in, graph = graphs[x.shape]
            x_in.copy_(x)
            y_in.copy_(y)
            graph.replay()

        return seconds_of(in_turn(of_torch, step), wait)

    by_sixteen = [padded_to_sixteen(batch) for batch in batches]
    settings: dict[str, Callable[[], float]] = {"padded": eager}
    if lesson.mask:
        settings["packed"] = lambda: eager(packed=True)
    if device == "cuda":
        settings |= {"captured": captured, "compiled": lambda: eager(compiled=True)}
    return {name: or_why_not(measure) for name, measure in settings.items()}


def padded_to_sixteen(batch: Batch) -> Batch:
    """The batch with its time axis filled up, so that few shapes have to be captured."""
    x, y = batch
    return np.pad(x, ((0, 0), (0, -x.shape[1] % 16))), y


def epoch(lesson: Lesson, data: Any) -> float:
    """Seconds of `fit` over `EPOCH` rows, those at hand over and over."""
    rows = EPOCH
    [(x, y)] = batches_of(lesson, data, 1, rows=min(rows, len(data.train)))
    ids = [row[: max(1, int((row != 0).sum()))] for row in x]
    x = list(itertools.islice(itertools.cycle(ids), rows))
    y = np.resize(y, rows)
    model, batch_size = our_model(lesson), RECIPES[lesson.name].batch_size
    model.fit(x[: 64 * batch_size], y[: 64 * batch_size], batch_size=batch_size, verbose=0)
    begun = time.perf_counter()
    model.fit(x, y, batch_size=batch_size, verbose=0)
    return time.perf_counter() - begun


# --- the floor ------------------------------------------------------------------------------------


def speeds() -> dict[str, float]:
    """Of this device: seconds between two launches within a graph, bytes and multiplications a
    second."""
    stream, tiny = xp.cuda.Stream(non_blocking=True), xp.zeros(1, np.float32)
    adam = kernel("adam_dense", "step.cu")  # over no weights at all
    arguments = (*(tiny,) * 4, xp.ones(5, np.int32), xp.zeros(3), *map(np.int32, (0, 1, 1)))
    launch = Launch(adam, (1,), (256,), (*arguments, *map(np.float32, (0, 0, 0))))
    count = 200
    with stream:
        launch()
        stream.synchronize()
        stream.begin_capture()
        for _ in range(count):
            launch()
        graph = stream.end_capture()
    gap = seconds_of(lambda: graph.launch(stream), stream.synchronize) / count
    source, target = (xp.zeros(COPIED, np.float32) for _ in range(2))
    moved = 2 * source.nbytes / seconds_of(lambda: xp.copyto(target, source), wait_for_device)
    a = xp.zeros((MULTIPLIED, MULTIPLIED), np.float32)
    products = MULTIPLIED**3 / seconds_of(lambda: xp.dot(a, a), wait_for_device)
    return {"launch": gap, "bytes": moved, "multiplications": products}


def floor(lesson: Lesson, batches: list[Batch], speed: dict[str, float]) -> dict[str, float]:
    """Seconds that a step of this lesson takes at least: by launches, bytes and multiplications."""
    N = float(np.mean([lengths_of(lesson, batch).sum() for batch in batches]))
    weights, products = VOCABULARY * lesson.features, 0.0
    for features, units, width in layers_of(lesson):
        weights += lesson.directions * (features + units + 1) * width
        products += 3 * lesson.directions * N * (features + units) * width
    return {
        "launches": launches_of(lesson, batches[0]) * speed["launch"],
        "bytes": 24 * weights / speed["bytes"],  # w, m and v, read and written
        "multiplications": products / speed["multiplications"],
    }


# --- single layers --------------------------------------------------------------------------------


def our_layer(cell: str, units: int, length: int, rows: int) -> dict[str, float]:
    """Seconds of forward and backward, and those of the loop over time alone, for each step."""
    layer = CELLS[cell](units, return_sequences=True)
    layer.build((rows, length, units))
    rng = np.random.default_rng(0)
    x, dy = (to_device(rng.normal(size=(rows, length, units)).astype("f4")) for _ in range(2))
    forward = seconds_of(lambda: layer.forward(x), wait_for_device)
    both = seconds_of(lambda: layer.backward(dy, layer.forward(x)[1]), wait_for_device)

    packing, N = full_mask(rows, length).packing(), rows * length
    loop, states = loops(layer.cell, np.float32, None), range(len(layer.cell.state_names))
    a = layer.cell.project(packing.pack(x))
    history = tuple(xp.zeros((rows + N, units), np.float32) for _ in states)
    kept = tuple(xp.empty((N, size), np.float32) for size in layer.cell.saved_sizes())
    before = loop.steps(a, history, kept, packing, None)
    step = seconds_of(lambda: loop.steps(a, history, kept, packing, None), wait_for_device)
    after = tuple(h[rows:] for h in history)
    local = loop.local_derivatives(before, after, (a, *kept), None)
    dstate = tuple(xp.zeros((rows, units), np.float32) for _ in states)
    given = (packing.pack(dy), *(None for _ in states[1:]))
    back = seconds_of(
        lambda: loop.steps_backward(dstate, given, local, packing, None), wait_for_device
    )
    return {
        "forward": forward,
        "backward": both - forward,
        "loop forward": step / length,
        "loop backward": back / length,
    }


def torch_layer(cell: str, units: int, length: int, rows: int, device: str) -> dict[str, float]:
    """Seconds of forward and backward of PyTorch's layer: cuDNN's, on a GPU."""
    import torch

    kinds = {"SimpleRNN": torch.nn.RNN, "LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU}
    layer = kinds[cell](units, units, batch_first=True).to(device)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    x = torch.randn(rows, length, units, device=device, requires_grad=True)
    dy = torch.randn(rows, length, units, device=device)
    forward = seconds_of(lambda: layer(x)[0], wait)
    both = seconds_of(lambda: layer(x)[0].backward(dy), wait)
    return {"forward": forward, "backward": both - forward}


def sizes() -> Iterator[tuple[str, int, int, int]]:
    """What `layers` goes through: first all cells at a lesson's size, then LSTM at every size."""
    for cell, units in itertools.product(CELLS, (16, 64, 128)):
        yield cell, units, 64, 16
    for units, length, rows in itertools.product(UNITS, LENGTHS, ROWS):
        yield "LSTM", units, length, rows


# --- all of it ------------------------------------------------------------------------------------


def run(data: Any, models: list[str], batches: int, device: str = "cuda") -> dict[str, Any]:
    """All parts, each printed as it comes.

    Raises:
        ValueError: where CuPy finds no GPU.
    """
    if get_backend() != "cupy" and set_backend("auto") != "cupy":
        raise ValueError("bench gpu: there is no GPU that CuPy can use here")
    begun, results = time.monotonic(), {"device": describe(), "left out": []}
    speed = speeds()
    results["speeds"] = speed
    show(results)
    for name in models:
        lesson = LESSONS[name]
        made = batches_of(lesson, data, batches)
        ours = our_step(lesson, made)
        theirs = or_why_not(lambda lesson=lesson, made=made: torch_steps(lesson, made, device))
        parts = floor(lesson, made, speed)
        figures = {
            "minirnn ms": ours * 1e3,
            "PyTorch ms": in_milliseconds(theirs),
            "epoch s": epoch(lesson, data),
            "floor ms": in_milliseconds(parts),
            "share of the floor": sum(parts.values()) / ours,
        }
        results[name] = figures
        show({name: figures})
    results["layers"] = []
    for size in sizes():
        if time.monotonic() - begun > SECONDS:
            results["left out"].append(size)
            continue
        figures = {
            "size": size,
            "minirnn": or_why_not(lambda size=size: in_microseconds(our_layer(*size))),
            "PyTorch": or_why_not(lambda size=size: in_microseconds(torch_layer(*size, device))),
        }
        results["layers"].append(figures)
        show(figures)
    return results


def describe() -> dict[str, Any]:
    properties = xp.cuda.runtime.getDeviceProperties(0)
    versions = {"CuPy": xp.module.__version__, "CUDA": xp.cuda.runtime.runtimeGetVersion()}
    try:
        import torch

        versions |= {"PyTorch": torch.__version__, "cuDNN": torch.backends.cudnn.version()}
    except ImportError:
        versions["PyTorch"] = "not installed"
    return {"name": properties["name"].decode(), **versions}


def in_milliseconds(figures: Any) -> Any:
    return scaled(figures, 1e3)


def in_microseconds(figures: Any) -> Any:
    return scaled(figures, 1e6)


def scaled(figures: Any, factor: float) -> Any:
    """Seconds in another unit; a reason stays a reason."""
    if not isinstance(figures, dict):
        return figures
    return {k: v if isinstance(v, str) else round(v * factor, 4) for k, v in figures.items()}


def show(figures: Any) -> None:
    print(json.dumps(figures, ensure_ascii=False), flush=True)


def table(results: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [f"Device: {json.dumps(results['device'])}", ""]
    names = [name for name in LESSONS if name in results]
    settings = sorted({k for n in names for k in dict_or_none(results[n]["PyTorch ms"])})
    head = ["model", "minirnn ms", *(f"PyTorch {s}" for s in settings), "epoch s", "of the floor"]
    rows = []
    for name in names:
        figures = results[name]
        theirs = dict_or_none(figures["PyTorch ms"])
        rows.append(
            [name, figures["minirnn ms"], *(theirs.get(s, "-") for s in settings)]
            + [figures["epoch s"], figures["share of the floor"]]
        )
    lines += [*markdown(head, rows), ""]
    parts = "forward", "backward"
    head = [
        "cell, units, length, rows",
        *(f"{p} µs" for p in parts),
        *(f"cuDNN {p}" for p in parts),
    ]
    head += [f"loop {p}, µs a step" for p in parts]
    rows = []
    for figures in results["layers"]:
        ours, theirs = dict_or_none(figures["minirnn"]), dict_or_none(figures["PyTorch"])
        rows.append(
            [", ".join(map(str, figures["size"]))]
            + [source.get(p, "-") for source in (ours, theirs) for p in parts]
            + [ours.get(f"loop {p}", "-") for p in parts]
        )
    return "\n".join([*lines, *markdown(head, rows)])


def dict_or_none(figures: Any) -> dict[str, Any]:
    return figures if isinstance(figures, dict) else {}


def markdown(head: list[str], rows: list[list[Any]]) -> list[str]:
    shown = [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row] for row in rows]
    lines = [head, ["---"] * len(head), *shown]
    return ["| " + " | ".join(line) + " |" for line in lines]
