"""What the ranks of a data parallel training tell each other in a step.

Each rank has the gradient of its own rows of a batch. Two kinds of gradients travel in two ways:

- those of all dense weights lie end to end in one flat array, with a few numbers behind them, and
  are summed over the ranks by *one* call, which is started before the last layer's backward pass
  and waited for after it;
- that of an Embedding is few rows of a large table: their ids and the rows themselves go to
  everyone, and everyone adds up the rows of equal ids in the order of the ranks.

Everyone ends with the same bits: MPI and NCCL promise that for a sum, the fixed order does it for
the rows.

**Shares of differing size.** A loss is a mean over elements (rows, or real steps). The mean over
all ranks is the mean of their means, each weighted with its number of elements. So a rank sends
`elements * gradient`, the number of elements is one of the numbers behind, and the sum is divided
by the sum of those. A rank without any row sends zeros.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from minirnn.backend import Array, floatx, get_backend, to_host, xp
from minirnn.base import Layer, RowGradient
from minirnn.layers.embedding import Embedding, sum_equal_ids


class Exchange:
    """Sums the gradients of one model over all ranks, step by step.

    Args:
        transport: `MpiTransport`, or another with the same three methods.
        params: key → weights, those that training changes.
        tables: keys of those whose gradients travel as rows.
        numbers: how many numbers travel along.

    Attributes:
        views: key → where the gradient of dense weights stands in the flat array.
        gradients, numbers: the parts of that array.
    """

    def __init__(
        self, transport: Any, params: Mapping[str, Array], tables: Collection[str], numbers: int
    ) -> None:
        self.transport = transport
        self.tables = {key: params[key] for key in params if key in tables}
        dense = {key: weights for key, weights in params.items() if key not in tables}
        dtype = np.result_type(*(w.dtype for w in dense.values())) if dense else floatx()
        size = sum(weights.size for weights in dense.values())
        self.flat = xp.zeros(size + numbers, dtype=dtype)
        self.views, end = {}, 0
        for key, weights in dense.items():
            self.views[key] = self.flat[end : end + weights.size].reshape(weights.shape)
            end += weights.size
        self.gradients, self.numbers = self.flat[:size], self.flat[size:]

    def start(
        self, grads: Mapping[str, Any] | None, elements: float, numbers: Iterable[Any]
    ) -> None:
        """Begin to sum the dense gradients and the numbers; None: this rank has no rows."""
        if grads is None:
            self.gradients[...] = 0
        else:
            for key, view in self.views.items():
                gradient = grads[key]
                if isinstance(gradient, RowGradient):
                    gradient = gradient.dense(view.shape)
                xp.multiply(gradient, elements, out=view)
        for i, number in enumerate(numbers):  # some may be on a device: so one by one
            self.numbers[i] = number
        self.transport.start_sum(self.flat)

    def rows(self, key: str, gradient: Any, elements: float) -> RowGradient:
        """The sum over all ranks of one table's gradients; None: this rank has no rows."""
        table = self.tables[key]
        if gradient is None:
            ids, rows = np.empty(0, np.int32), xp.empty((0, *table.shape[1:]), table.dtype)
        else:
            if not isinstance(gradient, RowGradient):
                used = xp.flatnonzero((gradient != 0).reshape(len(table), -1).any(axis=1))
                gradient = RowGradient(used, gradient[used])
            ids = to_host(gradient.ids).astype(np.int32, copy=False)
            rows = xp.multiply(gradient.rows, elements, dtype=table.dtype)
        ids, rows = self.transport.gather_rows(ids, rows)
        return sum_equal_ids(ids, rows, len(table))

    def wait(self) -> np.ndarray:
        """The sums of the numbers, on the host; `views` then hold the sums of the gradients."""
        self.transport.finish_sum()
        return to_host(self.numbers)


class MpiTransport:
    """Through MPI: arrays of NumPy, or of a GPU if MPI can reach its memory.

    comm: a communicator of mpi4py.
    """

    def __init__(self, comm: Any) -> None:
        from mpi4py import MPI

        self.comm, self.in_place = comm, MPI.IN_PLACE
        self.request: Any = None

    def start_sum(self, flat: Array) -> None:
        """Begin to replace `flat` by its sum over all ranks."""
        await_device()
        self.request = self.comm.Iallreduce(self.in_place, flat)

    def finish_sum(self) -> None:
        self.request.Wait()

    def gather_rows(self, ids: np.ndarray, rows: Array) -> tuple[np.ndarray, Array]:
        """The ids (n,) and rows (n, features) of all ranks, one rank after another."""
        counts, all_ids = gather_ids(self.comm, ids)
        all_rows = xp.empty((len(all_ids), *rows.shape[1:]), rows.dtype)
        await_device()
        self.comm.Allgatherv(rows, [all_rows, counts * math.prod(rows.shape[1:])])
        return all_ids, all_rows


def gather_ids(comm: Any, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many ids each rank has, and all of them."""
    counts = np.empty(comm.size, np.int64)
    comm.Allgather(np.array([len(ids)], np.int64), counts)
    all_ids = np.empty(int(counts.sum()), ids.dtype)
    comm.Allgatherv(ids, [all_ids, counts])
    return counts, all_ids


def await_device() -> None:
    """MPI knows nothing of streams: what is to be sent must be there."""
    if get_backend() == "cupy":
        xp.cuda.get_current_stream().synchronize()


def transport_for(comm: Any) -> Any:
    """NCCL for arrays of a GPU where CuPy has it, else MPI."""
    if get_backend() == "cupy" and xp.cuda.nccl.available:
        from minirnn.cuda.nccl import NcclTransport

        return NcclTransport(comm)
    return MpiTransport(comm)


def keys_of_tables(layer: Layer, prefix: str = "") -> Iterator[str]:
    """The keys, in `layer.params`, of the tables of all Embedding layers."""
    if isinstance(layer, Embedding):
        yield f"{prefix}embeddings"
    for name, child in layer.children().items():
        yield from keys_of_tables(child, f"{prefix}{name}_" if name else prefix)
