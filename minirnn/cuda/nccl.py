"""The exchange of gradients between GPUs, through NCCL: arrays go from device to device."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.backend import Array, to_device, xp
from minirnn.parallel.exchange import gather_ids


class NcclTransport:
    """As `MpiTransport`, for arrays of a GPU; ids, which are on the host, still go through MPI.

    NCCL works on a stream of its own: what it sends was computed before, and what it brings is
    waited for by the device alone.
    """

    def __init__(self, comm: Any) -> None:
        nccl = xp.cuda.nccl
        name = comm.bcast(nccl.get_unique_id() if comm.rank == 0 else None)
        self.nccl = nccl.NcclCommunicator(comm.size, name, comm.rank)
        self.kinds = {"float32": nccl.NCCL_FLOAT32, "float64": nccl.NCCL_FLOAT64}
        self.sum = nccl.NCCL_SUM
        self.comm = comm
        self.stream = xp.cuda.Stream(non_blocking=True)

    def start_sum(self, flat: Array) -> None:
        wait(self.stream, xp.cuda.get_current_stream())
        place, kind = flat.data.ptr, self.kinds[flat.dtype.name]
        self.nccl.allReduce(place, place, flat.size, kind, self.sum, self.stream.ptr)

    def finish_sum(self) -> None:
        wait(xp.cuda.get_current_stream(), self.stream)

    def gather_rows(self, ids: np.ndarray, rows: Array) -> tuple[np.ndarray, Array]:
        counts, all_ids = gather_ids(self.comm, ids)
        most, width = int(counts.max()), rows.shape[1:]
        sent = xp.zeros((most, *width), rows.dtype)  # all send as much as the one that has most
        sent[: len(rows)] = rows
        found = xp.empty((self.comm.size * most, *width), rows.dtype)
        wait(self.stream, xp.cuda.get_current_stream())
        kind = self.kinds[rows.dtype.name]
        self.nccl.allGather(sent.data.ptr, found.data.ptr, sent.size, kind, self.stream.ptr)
        wait(xp.cuda.get_current_stream(), self.stream)
        real = [np.arange(count) + rank * most for rank, count in enumerate(counts)]
        return all_ids, found[to_device(np.concatenate(real))]


def wait(stream: Any, other: Any) -> None:
    """What is put on a stream from now on happens after all that is on the other one by now."""
    event = xp.cuda.Event()
    event.record(other)
    stream.wait_event(event)
