"""Data parallel training: several processes, each with a part of every batch, and one model.

    mpiexec -n 4 python train.py

    ranks = minirnn.parallel.world()
    ...
    model.fit(x, y, batch_size=16, ranks=ranks)

Each process (a *rank*) runs the whole script. `fit` then gives each rank its rows of each batch,
`ranks * batch_size` of them together; the gradients are added up (exchange.py), and every rank does
the same step with the same sum. So all have the same weights, bit for bit, all the time, and those
that one process would have come to with the same, larger batch, to rounding.

What is drawn for dropout differs from rank to rank; the first weights and the order of the rows do
not. If a rank fails, all end. Needs `pip install "minirnn[mpi]"`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from minirnn.backend import (
    draws_from,
    generator_state,
    get_backend,
    set_generator_state,
    to_host,
    xp,
)
from minirnn.base import layers_of
from minirnn.batches import StreamBatches
from minirnn.parallel.exchange import transport_for
from minirnn.parallel.shared_steps import SharedSteps
from minirnn.parallel.supervisor import supervise
from minirnn.steps import RunningMeans
from minirnn.training import known_length
from minirnn.turns import stateful

MISSING = (
    'training on several processes needs mpi4py and MPI: pip install "minirnn[mpi]" brings both, '
    "with mpiexec"
)
LAUNCHERS = (("PMI_RANK", "PMI_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"))

_world: Ranks | None = None


def launched() -> tuple[int, int]:
    """`(rank, ranks)` as mpiexec has put them into the environment; `(0, 1)` without it."""
    for names in LAUNCHERS:
        if all(os.environ.get(name, "").isdecimal() for name in names):
            rank, ranks = (int(os.environ[name]) for name in names)
            return rank, ranks
    return 0, 1


def world() -> Ranks:
    """All processes that mpiexec has started, or this one alone.

    Call it at the beginning of the program, on all ranks: from then on all of them draw the same
    random numbers. On GPUs, each rank takes one of those of its machine. A rank that ends with an
    error from then on ends all.

    Raises:
        ImportError: if mpi4py or MPI are missing.
    """
    global _world
    if _world is None:
        rank, ranks = launched()
        if ranks > 1:
            supervise(rank, ranks)
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:  # mpi4py's own, if there is no MPI
            raise ImportError(f"{MISSING} ({error})") from error
        _world = Ranks(MPI.COMM_WORLD.Dup())
        if _world.size > 1:
            atexit.register(_world.leave)
            sys.excepthook = _world.end_all
            take_a_device(MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED).rank)
            set_generator_state(_world.from_first(generator_state))
    return _world


def told_by_first(error: object) -> bool:
    """Whether all ranks have raised this error, so that the first one tells of it, not this one."""
    return _world is not None and _world.rank > 0 and error is _world.agreed


def take_a_device(number: int) -> None:
    """The process of this number on its machine computes on the GPU of this number."""
    if get_backend() == "cupy":
        xp.cuda.Device(number % xp.cuda.runtime.getDeviceCount()).use()


class Ranks:
    """The processes of a training.

    Args:
        comm: a communicator of mpi4py.

    Attributes:
        rank: the number of this process, from 0.
        size: how many there are.
        told_in_a_line: errors of which no traceback is shown.
    """

    told_in_a_line: tuple[Any, ...] = OSError, MemoryError, KeyboardInterrupt, SystemExit

    def __init__(self, comm: Any) -> None:
        self.comm = comm
        self.rank: int = comm.rank
        self.size: int = comm.size
        self.draws: int | None = None  # seeds what only this rank draws; see `SharedSteps`
        self.aligned = False
        self.agreed: BaseException | None = None

    def __repr__(self) -> str:
        return f"<rank {self.rank} of {self.size}>"

    @functools.cached_property
    def transport(self) -> Any:
        """What carries the gradients."""
        return transport_for(self.comm)

    # -- all ranks call these, in the same order --

    def from_first(self, function: Callable[[], Any]) -> Any:
        """`function()` as it is on rank 0, on all ranks; the others do not call it."""
        value, error = None, None
        if self.rank == 0:
            try:
                value = function()
            except Exception as raised:
                error = raised
        value, error = self.comm.bcast((value, error))
        if error is not None:
            raise self.on_all(error)
        return value

    def on_all(self, error: BaseException) -> BaseException:
        """The error, to be raised by all ranks at once: then none needs to be told."""
        self.agreed = error
        return error

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.comm.Barrier()

    def meet(self, facts: Mapping[str, Any] | None) -> None:
        """Make sure that all ranks are here with the same `facts`; None: this rank is leaving."""
        all_facts = self.comm.allgather(None if facts is None else dict(facts))
        gone = [rank for rank, theirs in enumerate(all_facts) if theirs is None]
        if facts is None:
            return
        if gone:
            raise RuntimeError(f"rank {gone[0]} of {self.size} has ended, and is needed here")
        for rank, theirs in enumerate(all_facts):
            for name, value in all_facts[0].items():
                if theirs[name] != value:
                    raise self.on_all(
                        ValueError(
                            f"fit: all ranks must be given the same; rank 0 has {name} {value}, "
                            f"and rank {rank} has {theirs[name]}"
                        )
                    )

    def leave(self) -> None:
        """At the end of the program: wait for the others."""
        self.meet(None)

    # -- when a rank fails --

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """An error within this on one rank ends all of them: the others would wait for ever."""
        self.agreed = None
        try:
            yield
        except BaseException as error:
            if error is self.agreed:
                raise
            self.end_all(type(error), error, error.__traceback__)
            raise

    def end_all(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        """Say what has happened on this rank, and end all."""
        if error is self.agreed:
            if self.rank == 0:
                traceback.print_exception(kind, error, trace)
            return
        time.sleep(0.2 * min(self.rank, 5))  # of ranks with the same error, one speaks
        if isinstance(error, self.told_in_a_line):
            what = f"{kind.__name__}: {error}" if str(error) else kind.__name__
        else:
            traceback.print_exception(kind, error, trace)
            what = kind.__name__
        says = f"minirnn: rank {self.rank} of {self.size} failed ({what}); this ends the training."
        print(says, file=sys.stderr, flush=True)
        sys.stdout.flush()
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
        self.comm.Abort(code)
        os._exit(code)  # Abort may return, to wait for the end

    # -- what `fit` asks for --

    def share(self, data: Any) -> Any:
        """This rank's part of each batch, padded as the whole one."""
        part = data.share(self.rank, self.size)
        if isinstance(part, StreamBatches) and part.pads_alone:
            part.longest = lambda length: max(self.comm.allgather(length))
        return part

    def begin(self, model: Any, passes: Any, **facts: Any) -> None:
        """Before the first epoch: start from what rank 0 has, if the model is built."""
        if facts["checkpoint"] and stateful(model):
            raise ValueError(
                "checkpoint: the states of stateful layers are those of each rank's own rows, and "
                "are not kept on several ranks; train without ranks, or without a checkpoint"
            )
        optimizer = model.optimizer.get_config()
        facts |= {"optimizer": optimizer, "built": model.built, "data": passes.data.described()}
        self.meet(facts | {"batches": known_length(passes), "place": passes.position()})
        set_generator_state(self.from_first(generator_state))
        self.draws = int(draws_from(generator_state()).integers(2**63))
        self.aligned = False
        if model.built:
            self.align(model)

    def build(self, model: Any, x: Any) -> None:
        """Build the model from the first batch; x: this rank's part, None if it has none."""
        if not model.built:
            given = self.comm.allgather(x is not None)
            x = self.comm.bcast(x, given.index(True))
        model.training_parts(x)
        if not self.aligned:
            self.align(model)

    def align(self, model: Any) -> None:
        """Take over the weights and the state of the optimizer of rank 0."""
        with model.turns.alone():
            for weights in model.params.values():
                host = np.ascontiguousarray(to_host(weights))
                self.comm.Bcast(host)
                weights[...] = xp.asarray(host)
            model.optimizer.load_state_dict(self.from_first(model.optimizer.state_dict))
        self.aligned = True

    def draw_apart(self, model: Any) -> None:
        """Let layers with a random generator of their own draw something else on each rank."""
        for _, layer in layers_of(model):
            if getattr(layer, "generator", None) is not None:
                bits = layer.generator.bit_generator.jumped(self.rank)
                layer.generator = np.random.Generator(bits)

    def add_up(self, means: RunningMeans) -> None:
        """Turn the figures of each rank's part into those of all."""
        totals = np.array(means.state())
        self.comm.Allreduce(totals.copy(), totals)
        means.restore(totals.tolist())

    def end_epoch(self, model: Any, stop: bool) -> bool:
        """Whether any rank wants to stop.

        Raises:
            RuntimeError: if the weights of two ranks differ.
        """
        model.stop_training = any(self.comm.allgather(bool(model.stop_training)))
        sums = self.comm.allgather([bits(weights) for weights in model.params.values()])
        for key, *of_rank in zip(model.params, *sums, strict=True):
            if len(set(of_rank)) > 1:
                rank = next(r for r, value in enumerate(of_rank) if value != of_rank[0])
                raise self.on_all(
                    RuntimeError(
                        f"the weights {key} of rank {rank} are no longer those of rank 0. Has a "
                        "callback done something on one rank only, such as setting the learning "
                        "rate or weights?"
                    )
                )
        return any(self.comm.allgather(stop))

    def steps(self, model: Any, epoch: int, keeper: Any = None) -> SharedSteps:
        """What does the steps of an epoch; keeper: of the checkpoints, if there are any."""
        return SharedSteps(self, model, epoch, keeper)


def bits(weights: Any) -> int:
    """A sum over the bits of an array; where arrays differ, it hardly ever is the same."""
    words = xp.ascontiguousarray(weights).reshape(-1).view(xp.uint32)
    return int(to_host(words.sum(dtype=xp.uint64)))
