"""A stand-in for NCCL beside strict_cupy.py: sums go through MPI, on arrays of the stand-in.

As on a device, nothing happens before somebody waits for the stream that it was put on.
"""

import ctypes
from types import SimpleNamespace

import numpy as np

KINDS = {7: np.float32, 8: np.float64}
calls = []


def memory(place, count, kind):
    """The numbers that stand at an address."""
    kind = np.dtype(KINDS[kind])
    raw = (ctypes.c_char * (count * kind.itemsize)).from_address(place)
    return np.frombuffer(raw, kind)


def described(array):
    """What MPI is told of an array of a device."""
    assert array.flags.c_contiguous
    place = array.data.ptr, False
    return {"shape": array.shape, "typestr": array.dtype.str, "data": place, "version": 3}


class DefaultStream:
    """What is put here happens at once."""

    def position(self):
        return 0

    def drain(self, until=None):
        pass

    def wait_event(self, event):
        event.synchronize()

    def synchronize(self):
        pass


class Communicator:
    def __init__(self, comm, streams):
        self.comm, self.streams = comm, streams

    def allReduce(self, sent, found, count, kind, op, stream):
        calls.append(["allReduce", count])

        def work():
            total = np.empty(count, KINDS[kind])
            self.comm.Allreduce(memory(sent, count, kind).copy(), total)
            memory(found, count, kind)[...] = total

        self.streams[stream].put(work)

    def allGather(self, sent, found, count, kind, stream):
        calls.append(["allGather", count])

        def work():
            everything = memory(found, count * self.comm.size, kind)
            self.comm.Allgather(memory(sent, count, kind).copy(), everything)

        self.streams[stream].put(work)


def install(cupy, comm, nccl=True):
    """Let `cupy.cuda.nccl` be this one; comm: what it goes through.

    nccl: False to have none, but an MPI that reaches the memory of the device: that of the stand-in
    is the host's.
    """
    calls.clear()
    cupy.ndarray.__cuda_array_interface__ = property(described)
    streams = {}

    class Stream(cupy.cuda.Stream):
        @property
        def ptr(self):
            streams[id(self)] = self
            return id(self)

    def communicator(size, name, rank):
        assert (size, name, rank) == (comm.size, "a name", comm.rank)
        return Communicator(comm, streams)

    default = DefaultStream()
    cupy.cuda.Stream = Stream
    cupy.cuda.get_current_stream = lambda: default
    cupy.cuda.nccl = SimpleNamespace(
        available=nccl,
        get_unique_id=lambda: "a name",
        NcclCommunicator=communicator,
        NCCL_FLOAT32=7,
        NCCL_FLOAT64=8,
        NCCL_SUM=0,
    )
