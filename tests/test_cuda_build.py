"""The kernels compiled for GPUs, without one: none spills, and each keeps to its registers.

Registers decide how many blocks a multiprocessor holds at once, and spilled ones cost time in every
step of a loop, so both are held to a table. NVRTC, the compiler that CuPy uses, comes from the
package index (`pip install cuda-bindings nvidia-cuda-nvrtc`).
"""

import re

import pytest

from minirnn.cuda import loops, modules

nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings")
ARCHITECTURES = 80, 90, 100  # A100, H100, B200

# Kernel → its registers at most, on any of these; for the loops at so many units.
REGISTERS = {
    ("simple_rnn", 16): {"simple_rnn_forward": 48, "simple_rnn_backward": 56},
    ("simple_rnn", 128): {"simple_rnn_forward": 80, "simple_rnn_backward": 80},
    ("simple_rnn", 192): {"simple_rnn_forward": 80, "simple_rnn_backward": 80},
    ("lstm", 8): {"lstm_forward": 64, "lstm_backward": 72},
    ("lstm", 64): {"lstm_forward": 128, "lstm_backward": 128},
    ("lstm", 96): {"lstm_forward": 168, "lstm_backward": 168},
    ("lstm", 128): {"lstm_forward": 128, "lstm_backward": 128},
    ("gru", 16): {"gru_forward": 64, "gru_backward": 80},
    ("gru", 64): {"gru_forward": 128, "gru_backward": 120},
    ("gru", 128): {"gru_forward": 128, "gru_backward": 128},
    ("products", None): {"project": 64, "project_backward": 72, "sum_outer": 80},
    ("step", None): {
        "plan": 32,
        "cross_entropy": 40,
        "sum_equal_ids": 48,
        "check_gradients": 32,
        "adam_dense": 32,
        "adam_table": 32,
    },
}
PLAIN_SHARED = 16 * 1024  # bytes of shared memory that a kernel has without asking, at most


def compiled(files, architecture, **definitions):
    """What the compiler says of a source: `{kernel: (registers, spilled bytes, shared bytes)}`."""
    options = [f"-arch=sm_{architecture}", "-std=c++17", "--ptxas-options=-v"]
    options += [f"-D{key}={value}" for key, value in definitions.items()]
    options = [option.encode() for option in options]
    code = modules.source(*files).encode()
    _, program = nvrtc.nvrtcCreateProgram(code, b"kernels.cu", 0, [], [])
    (result,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = b" " * size
    nvrtc.nvrtcGetProgramLog(program, log)
    log = log.decode().rstrip("\0")
    assert result == nvrtc.nvrtcResult.NVRTC_SUCCESS, log
    found = {}
    for name, report in re.findall(r"Compiling entry function '(\w+)'(.*?Used [^\n]*)", log, re.S):
        registers = int(re.search(r"Used (\d+) registers", report)[1])
        spilled = sum(map(int, re.findall(r"(\d+) bytes spill", report)))
        shared = re.search(r"(\d+) bytes smem", report)
        found[name] = registers, spilled, int(shared[1]) if shared else 0
    return found


def checked(file, units, architecture, real="float"):
    if units is None:
        return compiled([f"{file}.cu"], architecture)
    loop = {"simple_rnn": loops.SIMPLE_RNN, "lstm": loops.LSTM, "gru": loops.GRU}[file]
    size = loop.size(units, {"float": 4, "double": 8}[real])
    definitions = {"UNITS": units, "IN_SHARED": size.in_shared, "REAL": real}
    found = compiled(["recurrent.cuh", f"{file}.cu"], architecture, **definitions)
    for registers, _, _ in found.values():  # rounded up to 8, for whole groups of four warps
        assert -(-registers // 8) * 8 * -(-size.threads // 128) * 128 <= 65_536, found
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("file", "units"), REGISTERS)
def test_registers_and_spills(file, units, architecture):
    found = checked(file, units, architecture)
    allowed = REGISTERS[file, units]
    assert found.keys() == allowed.keys()
    for name, (registers, spilled, shared) in found.items():
        assert registers <= allowed[name], f"{name}: {registers} registers"
        assert spilled == 0, f"{name} spills {spilled} bytes"
        assert shared <= PLAIN_SHARED, f"{name}: {shared} bytes of shared memory"


@pytest.mark.parametrize("units", [1, 7, 40, 97, 104, 113, 121])
@pytest.mark.parametrize("file", ["simple_rnn", "lstm", "gru"])
def test_no_size_spills(file, units):
    assert all(spilled == 0 for _, spilled, _ in checked(file, units, 90).values())


@pytest.mark.parametrize("file", ["simple_rnn", "lstm", "gru"])
def test_double_precision_compiles(file):
    assert all(spilled == 0 for _, spilled, _ in checked(file, 32, 90, "double").values())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("real", ["float", "double"])
def test_the_steps_of_larger_cells(real, architecture):
    found = compiled(["wide.cuh", "wide.cu"], architecture, REAL=real)
    assert len(found) == 9
    for name, (registers, spilled, shared) in found.items():
        assert spilled == 0, f"{name} spills {spilled} bytes"
        assert registers <= {"float": 112, "double": 128}[real], f"{name}: {registers} registers"
        assert shared <= {"float": 16, "double": 32}[real] * 1024, f"{name}: {shared} bytes"


def test_a_kernel_that_needs_more_registers_than_there_are_is_seen(monkeypatch):
    wasteful = loops.LSTM._replace(in_registers=128)
    monkeypatch.setattr(loops, "LSTM", wasteful)
    assert any(spilled for _, spilled, _ in checked("lstm", 128, 90).values())
