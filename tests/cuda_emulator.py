"""CUDA on the CPU, behind CuPy's names: kernels, compiled by g++ (cuda_on_cpu.h), streams, graphs.

What is put on a stream happens late: when somebody waits for it. Work that ought to have waited for
other work, and does not, then finds old numbers. Copies on a stream of their own happen late, too,
or as soon as they may (`copies_happen`), which shows whether memory is written while it is in use.
"""

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
COMPILER = os.environ.get("CXX", "g++")
SCHEDULES = ("round robin", "random", "one ahead")

_schedule = [0, 0]
launches = []  # the names of all kernels that have run
_early_copies = [False]


def has_compiler():
    return shutil.which(COMPILER) is not None


def set_schedule(name, seed=0):
    """The order in which the threads of every block take turns from now on."""
    _schedule[:] = SCHEDULES.index(name), seed


class RawModule:
    """`cupy.RawModule(code=..., options=...)`: the kernels of a source."""

    def __init__(self, *, code, options=(), **ignored):
        self.kernels = kernels_of(code)
        self.library = ctypes.CDLL(str(library_of(code, tuple(options))))

    def get_function(self, name):
        return Kernel(name, getattr(self.library, f"launch_{name}"), self.kernels[name], self)


class Kernel:
    """Launched as CuPy's: `kernel(grid, block, args, shared_mem=0)`."""

    def __init__(self, name, function, parameters, module):
        self.name, self.function, self.parameters, self.module = name, function, parameters, module
        self.max_dynamic_shared_size_bytes = 48 * 1024

    def __call__(self, grid, block, args, *, shared_mem=0):
        grid, block = (*grid, 1, 1)[:3], (*block, 1, 1)[:3]
        assert len(args) == len(self.parameters), f"{self.name} takes {len(self.parameters)}"
        assert block[1:] == (1, 1), "blocks of one dimension only"
        assert 0 < block[0] <= 1024, block
        assert all(n > 0 for n in grid), f"{self.name}: an empty grid {grid}"
        assert grid[0] < 2**31, grid
        assert max(grid[1:]) < 2**16, grid
        assert shared_mem <= self.max_dynamic_shared_size_bytes, f"{shared_mem} bytes of shared"
        values = [converted(self.name, *pair) for pair in zip(self.parameters, args, strict=True)]
        arrays = [weakref.ref(a._a) for a in args if hasattr(a, "_a")]

        def launch():
            assert all(array() is not None for array in arrays), f"{self.name}: memory is gone"
            self.module.library.set_schedule(_schedule[0], ctypes.c_uint64(_schedule[1]))
            self.function((ctypes.c_int * 3)(*grid), block[0], shared_mem, *values)
            launches.append(self.name)

        put_on_stream(launch)


def converted(kernel, parameter, value):
    """A C value for this parameter, if that is what CuPy would hand over."""
    kind, name = parameter
    if "*" in kind:
        if isinstance(value, np.uint64):
            assert value == 0, f"{kernel}: {name} is a number, not an array"
            return ctypes.c_void_p(0)
        assert value.flags.c_contiguous, f"{kernel}: {name} is not contiguous"
        pointee = kind.replace("const", "").replace("*", "").strip()
        expected = {"real": "fd", "float": "f", "int": "i", "double": "d"}[pointee]
        assert value.dtype.char in expected, f"{kernel}: {name} is {value.dtype}, not {pointee}"
        return ctypes.c_void_p(value.data.ptr)
    expected, made = {
        "int": (np.int32, ctypes.c_int),
        "float": (np.float32, ctypes.c_float),
        "double": (np.float64, ctypes.c_double),
    }[kind]
    assert isinstance(value, expected), f"{kernel}: {name} is {type(value)}, not {expected}"
    return made(value.item())


def kernels_of(code):
    """name → [(type, name of each parameter)]."""
    head = r"__global__\s+void\s+(?:__launch_bounds__\([\w, ]+\)\s+)?(\w+)"
    found = re.findall(head + r"\((.*?)\)\s*\{", code, re.S)
    return {
        name: [
            (
                text.rpartition(" ")[0].strip() + "*" * text.rpartition(" ")[2].count("*"),
                text.rpartition(" ")[2].strip("* "),
            )
            for text in " ".join(re.sub(r"//.*", "", parameters).split()).split(", ")
        ]
        for name, parameters in found
    }


@functools.cache
def library_of(code, options):
    """The shared library of this source; compiled once, and kept."""
    wrappers = [
        'extern "C" void launch_{}(const int* grid, int block, int shared, {}) {{\n'
        "  cuda_on_cpu::launch(grid, block, shared, [&] {{ {}({}); }});\n}}\n".format(
            name,
            ", ".join(f"{kind} {parameter}" for kind, parameter in parameters),
            name,
            ", ".join(parameter for _, parameter in parameters),
        )
        for name, parameters in kernels_of(code).items()
    ]
    text = "\n".join([HEADER.read_text(), code, *wrappers])
    flags = [o for o in options if o.startswith("-D")]
    name = hashlib.sha256(repr((text, flags)).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"minirnn_kernels_{os.getuid()}"
    folder.mkdir(exist_ok=True)
    library = folder / f"{name}.so"
    if not library.exists():
        source = folder / f"{name}.{os.getpid()}.cpp"
        source.write_text(text)
        made = source.with_suffix(".so")
        command = [COMPILER, "-std=c++17", "-O2", "-shared", "-fPIC", "-w", "-ffp-contract=off"]
        done = subprocess.run(
            [*command, *flags, "-o", str(made), str(source)], capture_output=True, text=True
        )
        source.unlink()
        if done.returncode:
            raise RuntimeError(f"{COMPILER} refused the kernels:\n{done.stderr}")
        os.replace(made, library)
    return library


# --- streams, events and graphs -------------------------------------------------------------------


class Stream:
    """`cupy.cuda.Stream`; the default one does everything at once."""

    current = None  # the stream that is used now

    def __init__(self, null=False, non_blocking=False):
        assert non_blocking, "a stream that blocks cannot be captured safely"
        self.waiting, self.done, self.capturing = [], 0, None

    def __enter__(self):
        self.before, Stream.current = Stream.current, self
        return self

    def __exit__(self, *error):
        Stream.current = self.before

    def put(self, work):
        self.waiting.append(work)

    def drain(self, until=None):
        """Do what has been put here, up to the work of this number."""
        while self.waiting and (until is None or self.done < until):
            work = self.waiting.pop(0)
            self.done += 1
            work()

    def position(self):
        return self.done + len(self.waiting)

    def wait_event(self, event):
        stream, position = event.stream, event.position
        if stream is not None:
            self.put(lambda: stream.drain(position))

    def synchronize(self):
        assert self.capturing is None, "waiting inside a capture"
        self.drain()

    def begin_capture(self, mode=None):
        assert Stream.current is self
        self.capturing, self.counts_before = [], counts()

    def end_capture(self):
        captured, self.capturing = self.capturing, None
        if counts() != self.counts_before:
            raise RuntimeError("an operation of CuPy inside a capture: only kernels of our own may")
        return Graph(captured)


class Graph:
    def __init__(self, captured):
        self.captured = captured

    def launch(self, stream):
        for work in self.captured:
            stream.put(work)


class Event:
    def __init__(self):
        self.stream, self.position = None, 0

    def record(self, stream):
        self.stream, self.position = stream, stream.position()

    def synchronize(self):
        if self.stream is not None:
            self.stream.drain(self.position)


class Device:
    """Waiting for the device says nothing of streams that do not block."""

    attributes = {"MaxSharedMemoryPerBlockOptin": 227 * 1024}

    def synchronize(self):
        pass


def put_on_stream(work):
    stream = Stream.current
    if stream is None:
        work()
    elif stream.capturing is not None:
        stream.capturing.append(work)
    else:
        stream.put(work)


def copies_happen(early):
    """Whether copies between host and device happen as soon as they may."""
    _early_copies[0] = early


def attach(cupy, total):
    """Give the stand-in for CuPy what stands here. total: its counts."""
    global counts
    counts = lambda: repr(total)  # noqa: E731
    plain_set = cupy.ndarray.set

    def set(self, arr, stream=None):
        assert arr.flags.c_contiguous
        if stream is None:
            plain_set(self, arr)
            return
        stream.put(lambda: plain_set(self, arr))
        if _early_copies[0]:
            stream.drain()

    cupy.ndarray.set = set
    cupy.RawModule = RawModule
    cupy.cuda = SimpleNamespace(
        is_available=lambda: True,
        Stream=Stream,
        Event=Event,
        Device=Device,
        alloc_pinned_memory=bytearray,
    )
