"""Plants errors into a copy of the library, one at a time, and checks that the tests see each.

    python scripts/plant_errors.py              all errors, two at a time
    python scripts/plant_errors.py lstm dropout only those with one of these words in their name
    python scripts/plant_errors.py --parity     do the tests beside other libraries see them, too?
    python scripts/plant_errors.py --list       names only

Hand-written backpropagation that is wrong still learns, so a falling loss proves nothing. This
script asks the other way round: of the mistakes that are easily made in this code (two gates
swapped, a matrix not transposed, h_t for h_{t-1}, a row order not undone ...), does any pass the
tests?

An error is a replacement of a short piece of source, which must stand in its file exactly once: if
the source has moved on, the script says so and stops. First the unchanged copy has to pass. Then
each error goes into a copy of its own in a temporary directory, and pytest runs the tests named
for it there, up to the first failure. The exit status is 0 if every error was found, 1 if one
survived, and 2 if the script could not do its work.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

CELLS = "tests/test_cells.py"
LOOP = "tests/test_timeloop.py"
PACKING = "tests/test_packing.py"
RNN = "tests/test_recurrent.py"
BOTH = "tests/test_bidirectional.py"
CORE = "tests/test_core_layers.py"
ACTIVATIONS = "tests/test_activations.py"
INITIALIZERS = "tests/test_initializers.py"
LOSSES = "tests/test_losses.py"
OPTIMIZERS = "tests/test_optimizers.py"
MODELS = "tests/test_models.py"
TRAINING = "tests/test_training.py"
CALLBACKS = "tests/test_callbacks.py"
TURNS = "tests/test_turns.py"
LINES = "tests/test_lines.py"
LONG_RUNS = "tests/test_long_runs.py"
ON_DEVICE = "tests/test_on_device.py"
GENERATION = "tests/test_generation.py"
SEQ2SEQ = "tests/test_seq2seq.py"
VECTORS = "tests/test_vectors.py"
STREAM = "tests/test_stream.py"
FUZZ = "tests/test_fuzz.py"
RANKS = "tests/test_parallel.py"
CHECKPOINT = "tests/test_checkpoint.py"
SEGMENTS = "tests/test_segments.py"
WINDOWS = "tests/test_windows.py"
FINITE = "tests/test_finite.py"


# The tests that compare with other libraries, and the files whose numbers they compare.
PARITY = tuple(
    f"tests/interop/{name}.py"
    for name in ("test_pytorch", "test_keras_layers", "test_keras_models")
)
MATHEMATICS = (
    "activations.py",
    "cells.py",
    "dropout.py",
    "initializers.py",
    "layers/bidirectional.py",
    "layers/core.py",
    "layers/embedding.py",
    "layers/pooling.py",
    "layers/recurrent.py",
    "losses.py",
    "optimizers.py",
    "packing.py",
    "timeloop.py",
)


class Error(NamedTuple):
    """A mistake: in `file`, `old` becomes `new`. `tests` (files, or single tests) must see it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


ERRORS = [
    # --- cells ---
    Error(
        "simple rnn: recurrent kernel not transposed in backward",
        "cells.py",
        'U_T = xp.ascontiguousarray(self.params["recurrent_kernel"].T)\n        dot = xp.dot\n',
        'U_T = xp.ascontiguousarray(self.params["recurrent_kernel"])\n        dot = xp.dot\n',
        (LOOP,),
    ),
    Error(
        "simple rnn: dropout of the state left out in backward",
        "cells.py",
        "            dot(da, U_T, dh)  #                         1   dh_{t-1} = da Uᵀ\n"
        "            if drop is not None:\n"
        "                dh *= drop\n"
        "\n"
        "\n",
        "            dot(da, U_T, dh)\n\n\n",
        (LOOP,),
    ),
    Error(
        "simple rnn: gradient from outside the loop not added",
        "cells.py",
        "                dh += dh_t\n            da *= dh",
        "                dh[...] = dh_t\n            da *= dh",
        (LOOP,),
    ),
    Error(
        "lstm: gates i and f swapped",
        "cells.py",
        "for a_t, i, f, g, o, tanh_c,",
        "for a_t, f, i, g, o, tanh_c,",
        (CELLS,),
    ),
    Error(
        "lstm: gates c and o swapped in backward",
        "cells.py",
        "(g, c_prev, i, tanh_c), strict",
        "(g, c_prev, tanh_c, i), strict",
        (LOOP,),
    ),
    Error(
        "lstm: dc not carried to the step before",
        "cells.py",
        "dc *= f  #",
        "dc *= 0  #",
        (CELLS,),
    ),
    Error(
        "lstm: dc from the step after lost",
        "cells.py",
        "multiply(dh, dc_dh, part)\n            dc += part  #",
        "multiply(dh, dc_dh, part)\n            dc[...] = part  #",
        (CELLS,),
    ),
    Error(
        "lstm: c_t for c_{t-1} in the forget gate's gradient",
        "cells.py",
        "(_, c_prev), (gates, tanh_c) = state_prev, saved",
        "(_, c_prev), (gates, tanh_c) = state, saved",
        (CELLS,),
    ),
    Error(
        "lstm: derivative of tanh for the forget gate",
        "cells.py",
        "functions[2] = self.activation",
        "functions[1] = self.activation",
        (CELLS,),
    ),
    Error(
        "lstm: derivative of tanh for the forget gate beside one tanh for all",
        "cells.py",
        "da *= gates + (half - shift)",
        "da *= gates + (half - shift)[:, ::-1]",
        (CELLS,),
    ),
    Error(
        "lstm: the candidate's tanh on the forget gate",
        "cells.py",
        "half[:, width // 2 : width // 4 * 3] = 1",
        "half[:, width // 4 : width // 2] = 1",
        (CELLS,),
    ),
    Error(
        "lstm: recurrent kernel not halved where one tanh serves all gates",
        "cells.py",
        "U = U * halved",
        "U = U * 1",
        (CELLS,),
    ),
    Error(
        "lstm: projection not halved where one tanh serves all gates",
        "cells.py",
        "a *= halved",
        "a *= 1",
        (CELLS,),
    ),
    Error(
        "lstm: a tanh of ones own taken for the paper's",
        "cells.py",
        "return super().has_usual_activations() and (",
        "return bool(",
        (CELLS,),
    ),
    Error(
        "lstm: dropout of the state left out in backward",
        "cells.py",
        "            if drop is not None:\n                dh *= drop\n            dc *= f",
        "            dc *= f",
        (LOOP,),
    ),
    Error(
        "lstm: dropout of the state left out in forward",
        "cells.py",
        "                h = multiply(h, drop, h_in)\n"
        "            dot(h, U, u)\n"
        "            a_t += u  #                                 1   a = x_t W + b + h_{t-1} U\n"
        "            if half",
        "                multiply(h, drop, h_in)\n"
        "            dot(h, U, u)\n"
        "            a_t += u  #                                 1   a = x_t W + b + h_{t-1} U\n"
        "            if half",
        (RNN,),
    ),
    Error(
        "lstm: gradient of c from outside the loop not added",
        "cells.py",
        "dc += dc_t",
        "dc += 0",
        (LOOP,),
    ),
    Error(
        "lstm: gradient of h from outside the loop given to c",
        "cells.py",
        "dc += dc_t",
        "dc += dh_t",
        (LOOP,),
    ),
    Error(
        "lstm: the carried dh taken for da_o after it was overwritten",
        "cells.py",
        "            da_o *= dh  #                             5 2   da_o\n"
        "            dot(da, U_T, dh)  #                         1   dh_{t-1} = da Uᵀ\n"
        "            if",
        "            dot(da, U_T, dh)\n            da_o *= dh\n            if",
        (CELLS,),
    ),
    Error(
        "lstm: unit_forget_bias on the wrong block",
        "cells.py",
        "bias[self.units : 2 * self.units] = 1",
        "bias[: self.units] = 1",
        (CELLS,),
    ),
    Error(
        "lstm: unit_forget_bias added instead of set",
        "cells.py",
        "bias[self.units : 2 * self.units] = 1",
        "bias[self.units : 2 * self.units] += 1",
        (CELLS,),
    ),
    Error(
        "gru: z and r swapped",
        "cells.py",
        "for a_zr, z, r, hh, u_h,",
        "for a_zr, r, z, hh, u_h,",
        (CELLS,),
    ),
    Error(
        "gru: da for du",
        "cells.py",
        "return da, du, z",
        "return da, da, z",
        (LOOP,),
    ),
    Error(
        "gru: reset gate forgotten in du",
        "cells.py",
        "split(du, 3)[2][...] *= r",
        "split(du, 3)[2][...] *= 1",
        (CELLS,),
    ),
    Error(
        "gru: recurrent bias gets the input bias's gradient",
        "cells.py",
        "[sum_of_rows(da), sum_of_rows(du)]",
        "[sum_of_rows(da), sum_of_rows(da)]",
        (CELLS,),
    ),
    Error(
        "gru: update gate forgotten on the way past",
        "cells.py",
        "multiply(dh, z, through)\n            dot(du,",
        "through[...] = dh\n            dot(du,",
        (CELLS,),
    ),
    Error(
        "gru: dropout also on the way past",
        "cells.py",
        "            if drop is not None:\n"
        "                dh *= drop\n"
        "            dh += through  #                            4",
        "            dh += through\n"
        "            if drop is not None:\n"
        "                dh *= drop  #                            4",
        (LOOP,),
    ),
    Error(
        "gru: gradient from outside the loop not added",
        "cells.py",
        "                dh += dh_t\n            da_zrh",
        "                dh[...] = dh_t\n            da_zrh",
        (LOOP,),
    ),
    Error(
        "gru: recurrent bias added to the input's part alone",
        "cells.py",
        "u += b_u  #",
        "u[:, :past] += b_u[:past]  #",
        (CELLS,),
    ),
    Error(
        "gru reset before: reset gate forgotten in backward",
        "cells.py",
        "drh *= r",
        "drh *= 1",
        (CELLS,),
    ),
    Error(
        "gru reset before: reset gate meets the state without its dropout",
        "cells.py",
        "multiply(r, h_d, rh)",
        "multiply(r, h, rh)",
        (RNN,),
    ),
    Error(
        "gru reset before: gradient from outside the loop not added",
        "cells.py",
        "                dh += dh_t\n            multiply(dh, z, through)\n            da_z",
        "                dh[...] = dh_t\n            multiply(dh, z, through)\n            da_z",
        (LOOP,),
    ),
    Error(
        "gru reset before: recurrent kernel's gradient from h, not r * h",
        "cells.py",
        "(r * h_prev).T",
        "h_prev.T",
        (CELLS,),
    ),
    Error(
        "bias gradient not summed over the steps",
        "cells.py",
        'grads["bias"] = sum_of_rows(da)',
        'grads["bias"] = sum_of_rows(da) / max(1, len(da))',
        (LOOP,),
    ),
    # --- time loop ---
    Error(
        "h_t for h_{t-1} in backward",
        "timeloop.py",
        "packing.states_before(states) for",
        "states[B:] for",
        (LOOP,),
    ),
    Error(
        "gradient from outside the loop overwritten",
        "timeloop.py",
        "d[B:] for d in dhistory",
        "d[B:] * 0 for d in dhistory",
        (LOOP,),
    ),
    Error(
        "gradients from outside the loop taken from one row further up",
        "timeloop.py",
        "d[B:] for d in dhistory",
        "d[: len(packing)] for d in dhistory",
        (LOOP,),
    ),
    Error(
        "gradient of the last states not sorted by length",
        "timeloop.py",
        "= d[packing.order]\n",
        "= d\n",
        (LOOP,),
    ),
    Error(
        "gradient of the last states lost",
        "timeloop.py",
        "        if d is not None:\n            started",
        "        if False:\n            started",
        (LOOP,),
    ),
    Error(
        "gradient of the initial state from outside the loop lost",
        "timeloop.py",
        "d if further is None else",
        "d if True else",
        (LOOP,),
    ),
    Error(
        "backward walks the steps forwards",
        "packing.py",
        "in self._walked()[::-1]",
        "in self._walked()",
        (LOOP,),
    ),
    Error(
        "backward walks the steps of a stretch forwards",
        "packing.py",
        "views[::-1] for views in along",
        "views for views in along",
        (LOOP,),
    ),
    Error(
        "initial state not sorted by length",
        "timeloop.py",
        "first[packing.order]",
        "first",
        (RNN,),
    ),
    Error(
        "initial state's gradient left in sorted order",
        "timeloop.py",
        "unsorted[packing.order]",
        "unsorted[...]",
        (LOOP,),
    ),
    Error(
        "recurrent dropout not sorted by length",
        "timeloop.py",
        "if drop is None else drop[packing.order]",
        "if drop is None else drop.copy()",
        (f"{RNN}::test_dropout_is_that_of_the_oracle",),
    ),
    Error(
        "recurrent dropout of another row in backward",
        "timeloop.py",
        "drop[packing.ranks]",
        "drop[packing.rows]",
        (LOOP,),
    ),
    # --- long sequences ---
    Error(
        "segments: state not carried over a border",
        "segments.py",
        "state = tuple(part.last(k) for k in range(len(state)))",
        "tuple(part.last(k) for k in range(len(state)))",
        (SEGMENTS,),
    ),
    Error(
        "segments: gradient not carried over a border",
        "segments.py",
        "dx[steps], dstate, of_part = timeloop",
        "dx[steps], _, of_part = timeloop",
        (SEGMENTS,),
    ),
    Error(
        "segments: the last one forgotten",
        "segments.py",
        "starts = range(0, T, size)",
        "starts = range(0, max(T - size, 1), size)",
        (SEGMENTS,),
    ),
    Error(
        "segments: weights learn from one segment alone",
        "segments.py",
        "grads[key] = grads[key] + gradient if key in grads else gradient",
        "grads[key] = gradient",
        (SEGMENTS,),
    ),
    Error(
        "segments: run once more without dropout",
        "segments.py",
        "        part = timeloop.run(cell, x[steps], plan, state, drop)\n        inside",
        "        part = timeloop.run(cell, x[steps], plan, state)\n        inside",
        (SEGMENTS,),
    ),
    Error(
        "segments: a border's states taken for steps",
        "segments.py",
        "xp.zeros((B, part.shape[1]), part.dtype), part",
        "dhistory[steps.start : B + steps.start], part",
        (SEGMENTS,),
    ),
    Error(
        "windows: state not reset between batches",
        "windows.py",
        "                self.model.reset_states()\n                yield",
        "                yield",
        (WINDOWS,),
    ),
    Error(
        "windows: those before the last not read",
        "windows.py",
        "self.model.walk(x[:, steps], training=True)",
        "pass",
        (WINDOWS,),
    ),
    # --- numbers that are not finite ---
    Error(
        "a gradient that is not finite passes",
        "steps.py",
        "if not all(map(math.isfinite, norms)):",
        "if False:",
        (FINITE,),
    ),
    Error(
        "gradients are asked from the first layer on",
        "finite.py",
        "for layer in reversed(body.layers):",
        "for layer in body.layers:",
        (FINITE,),
    ),
    Error(
        "clipping each number hides what is infinite",
        "finite.py",
        "    if not broken:\n        if clipped:",
        "    if True:\n        if clipped:",
        (FINITE,),
    ),
    Error(
        "hidden NaN is blamed",
        "finite.py",
        "if mask is not None and values.ndim == 3",
        "if False and values.ndim == 3",
        (FINITE,),
    ),
    # --- packing ---
    Error(
        "the state before step 0 looked up in the wrong place",
        "packing.py",
        "np.concatenate([[B], sizes])[: len(sizes)]",
        "np.concatenate([sizes[:1], sizes])[: len(sizes)]",
        (LOOP,),
    ),
    Error(
        "batch sizes of the row before",
        "packing.py",
        "k = lengths[n - 1] - taken",
        "k = lengths[n - 2] - taken",
        (PACKING,),
    ),
    Error(
        "rows sorted the wrong way round",
        "packing.py",
        "rank[self.host_order] = np.arange(len(rank))",
        "rank[:] = self.host_order",
        (LOOP,),
    ),
    Error(
        "a backward layer walks forwards",
        "packing.py",
        "return self.stretches[::-1] if self.reverse else self.stretches",
        "return self.stretches",
        (RNN,),
    ),
    Error(
        "the state before a backward step where it is for a forward one",
        "packing.py",
        "        if not self.reverse:\n            # In",
        "        if True:\n            # In",
        (RNN,),
    ),
    Error(
        "a row that joins late starts from the row before",
        "packing.py",
        "joins = ranks >= np",
        "joins = ranks > np",
        (PACKING,),
    ),
    Error(
        "steps of a stretch not reversed for a backward layer",
        "packing.py",
        "return views[::-1] if self.reverse else views",
        "return views",
        (RNN,),
    ),
    Error(
        "outputs of the backward direction not turned back",
        "packing.py",
        "return source[:, ::-1] if self.reverse else source",
        "return source",
        (RNN,),
    ),
    Error(
        "gradient of repeated outputs lost",
        "packing.py",
        "return len(self) < self.shape[0] * self.shape[1]",
        "return False",
        (LOOP,),
    ),
    Error(
        "a reversed mask that is not",
        "packing.py",
        "Mask(self.array[:, ::-1])",
        "Mask(self.array)",
        (f"{RNN}::test_the_mask_handed_on",),
    ),
    Error(
        "the states before a step taken from the step itself",
        "packing.py",
        "chain((start,), views)",
        "views",
        (PACKING,),
    ),
    Error(
        "every stretch starts from the initial state",
        "packing.py",
        "last[i] = views[-1]",
        "last[i] = last[i]",
        (PACKING,),
    ),
    Error(
        "rows that join start from the first rows' initial states",
        "packing.py",
        "history[len(start) : n]",
        "history[: n - len(start)]",
        (PACKING,),
    ),
    Error(
        "no copy although rows end",
        "packing.py",
        "if not self.reverse and not self.repeats:",
        "if not self.reverse:",
        (PACKING,),
    ),
    Error(
        "a packed copy in the order of the rows",
        "packing.py",
        "padded[self.gather] = steps",
        "padded[np.sort(self.gather)] = steps",
        (PACKING,),
    ),
    Error(
        "steps and rows exchanged in a stretch",
        "packing.py",
        "block.reshape(k, n, *array.shape[1:])",
        "block.reshape(n, k, *array.shape[1:]).swapaxes(0, 1)",
        (PACKING,),
    ),
    Error(
        "the last rows in the place of the first",
        "packing.py",
        "array[:n], k)",
        "array[len(array) - n :], k)",
        (PACKING,),
    ),
    # --- recurrent layers ---
    Error(
        "final state taken at the last position",
        "layers/recurrent.py",
        "y = loop.last(0)",
        "y = loop.history[0][walked.source[:, -1]]",
        (RNN,),
    ),
    Error(
        "zero_output_for_mask leaks into the final output",
        "layers/recurrent.py",
        "y = loop.last(0)",
        "y = show_steps(loop.history[0], walked, self.zero_output_for_mask)[:, -1]",
        (RNN,),
    ),
    Error(
        "zero_output_for_mask: gradient goes on to the state",
        "layers/recurrent.py",
        "if zero_masked or not packing.repeats:",
        "if not packing.repeats:",
        (f"{RNN}::test_zeroed_outputs_pass_no_gradient",),
    ),
    Error(
        "gradient of go_backwards outputs not reversed",
        "layers/recurrent.py",
        "dy = dy[:, ::-1]",
        "dy = dy[:, :]",
        (LOOP,),
    ),
    Error(
        "go_backwards hands on the mask unreversed",
        "layers/recurrent.py",
        "return mask.reversed() if self.go_backwards else mask",
        "return mask",
        (f"{RNN}::test_a_stack_behind_a_backward_layer_is_invariant_to_padding",),
    ),
    Error(
        "only the first of repeated outputs gets a gradient",
        "layers/recurrent.py",
        "= sum_runs(flat, packing.runs)",
        "= flat[packing.runs]",
        (LOOP,),
    ),
    Error(
        "on a device, a run's sum reaches into the run before",
        "backend.py",
        "place[reach:] >= reach",
        "place[reach:] >= 1",
        (ON_DEVICE,),
    ),
    Error(
        "on a device, the last turn of the sums of runs left out",
        "backend.py",
        "while reach < lengths.max(initial=0)",
        "while 2 * reach < lengths.max(initial=0)",
        (ON_DEVICE,),
    ),
    Error(
        "on a device, the ids of an embedding left on the host",
        "layers/embedding.py",
        'xp.take(self._weights["embeddings"], to_device(ids), axis=0)',
        'xp.take(self._weights["embeddings"], ids, axis=0)',
        (ON_DEVICE,),
    ),
    Error(
        "on a device, rows of a table wait, which asks who has waited",
        "stepping.py",
        ' and drift.steady and get_backend() == "numpy"',
        " and drift.steady",
        ("tests/test_learning_on_device.py",),
    ),
    Error(
        "on a device, the number before a complex step is a view and moves along",
        "gradcheck/numeric.py",
        "value = tensor[index].item()",
        "value = tensor[index]",
        ("tests/test_models_on_device.py",),
    ),
    Error(
        "gradient of the returned state replaces that of the output",
        "layers/recurrent.py",
        "dfinal[0] = dy if dfinal[0] is None else dy + dfinal[0]",
        "dfinal[0] = dy if dfinal[0] is None else dfinal[0]",
        (LOOP,),
    ),
    Error(
        "gradient of the output replaces that of the returned state",
        "layers/recurrent.py",
        "dfinal[0] = dy if dfinal[0] is None else dy + dfinal[0]",
        "dfinal[0] = dy",
        (LOOP,),
    ),
    Error(
        "gradients of the returned states lost beside a sequence",
        "layers/recurrent.py",
        "list(dstates) or [None] * len(loop.history)",
        "(not return_sequences and list(dstates)) or [None] * len(loop.history)",
        (LOOP,),
    ),
    Error(
        "dropout of the inputs left out in backward",
        "layers/recurrent.py",
        "dsteps *= drop_x[packing.rows]",
        "pass",
        (RNN,),
    ),
    Error(
        "dropout outside training",
        "layers/recurrent.py",
        "(B, F), steps.dtype, training)",
        "(B, F), steps.dtype, True)",
        (f"{RNN}::test_dropout_only_in_training",),
    ),
    Error(
        "a stateful layer carries the state before the batch",
        "layers/recurrent.py",
        "self.states = last_states(loop)",
        "self.states = tuple(h[:B] for h in loop.history)",
        (RNN,),
    ),
    # --- bidirectional ---
    Error(
        "bidirectional: halves of concat exchanged in backward",
        "layers/bidirectional.py",
        "return dy[..., : self.layer.units], dy[..., self.layer.units :]",
        "return dy[..., self.layer.units :], dy[..., : self.layer.units]",
        (f"{BOTH}::test_backward_is_that_of_two_layers",),
    ),
    Error(
        "bidirectional: ave without its half in backward",
        "layers/bidirectional.py",
        "return dy * 0.5, dy * 0.5",
        "return dy, dy",
        (f"{BOTH}::test_backward_is_that_of_two_layers",),
    ),
    Error(
        "bidirectional: factors of mul exchanged in backward",
        "layers/bidirectional.py",
        "return dy * back, dy * ahead",
        "return dy * ahead, dy * back",
        (f"{BOTH}::test_backward_is_that_of_two_layers",),
    ),
    Error(
        "bidirectional: both directions read forwards",
        "layers/bidirectional.py",
        "packings = ahead, ahead.reversed",
        "packings = ahead, ahead",
        (BOTH,),
    ),
    Error(
        "bidirectional: only one direction's dx",
        "layers/bidirectional.py",
        "dsteps += ways[1][0]",
        "pass",
        (BOTH,),
    ),
    Error(
        "bidirectional: one dropout for both directions in backward",
        "layers/bidirectional.py",
        "dsteps *= drop_x[way][packing.rows]",
        "dsteps *= drop_x[0][packing.rows]",
        (BOTH,),
    ),
    Error(
        "bidirectional: masked outputs not zero",
        "packing.py",
        "padded = xp.zeros(",
        "padded = xp.ones(",
        (BOTH,),
    ),
    Error(
        "bidirectional: gradients of packed outputs lost",
        "layers/bidirectional.py",
        "return dy if dy is None else dy.steps",
        "return None",
        (PACKING,),
    ),
    Error(
        "bidirectional: one set of weights for both directions in backward",
        "layers/bidirectional.py",
        "layer = (self.forward_layer, self.backward_layer)[way]",
        "layer = self.forward_layer",
        (f"{BOTH}::test_backward_is_that_of_two_layers",),
    ),
    Error(
        "bidirectional: gradients of the states of one direction for both",
        "layers/bidirectional.py",
        "dy, dstates[way], loop",
        "dy, dstates[0], loop",
        (f"{BOTH}::test_backward_is_that_of_two_layers",),
    ),
    Error(
        "bidirectional: one dropout of the state for both directions",
        "layers/bidirectional.py",
        "else drop_h[way]",
        "else drop_h[0]",
        (BOTH,),
    ),
    Error(
        "bidirectional: initial states of the directions exchanged",
        "layers/bidirectional.py",
        "return tuple(given[:count]), tuple(given[count:])",
        "return tuple(given[count:]), tuple(given[:count])",
        (BOTH,),
    ),
    Error(
        "bidirectional: a seed starts both directions equal",
        "layers/bidirectional.py",
        ".split(2)[which]",
        ".split(2)[0]",
        (f"{BOTH}::test_directions_start_differently_with_and_without_a_seed",),
    ),
    # --- other layers ---
    Error(
        "embedding: gradients of a repeated id not summed",
        "layers/embedding.py",
        "sums = grouped_sums(rows, order, starts) if len(ids) else rows",
        "sums = rows[order[starts]]",
        (CORE,),
    ),
    Error(
        "embedding: rows of the gradient in the batch's order",
        "layers/embedding.py",
        "grouped_sums(rows, order, starts)",
        "grouped_sums(rows, np.sort(order), starts)",
        (CORE,),
    ),
    Error(
        "dense: bias gradient not summed over the batch",
        "layers/core.py",
        "flat_da.sum(axis=0)",
        "flat_da.mean(axis=0)",
        (CORE,),
    ),
    Error(
        "real steps put back in the wrong place",
        "layers/core.py",
        "padded[self.real] = y",
        "padded[: len(y)] = y",
        (CORE,),
    ),
    Error(
        "padding computed with like the rest",
        "layers/core.py",
        "            self.real = mask.real\n",
        "            self.real = full_mask(*self.shape).real\n",
        (CORE,),
    ),
    Error(
        "dense: the mask forgotten in forward",
        "layers/core.py",
        "        x = steps.take(x)\n        a = x @ W",
        "        steps = RealSteps(self.name, x, None)\n        a = x @ W",
        (CORE,),
    ),
    Error(
        "dense: dx spread over the wrong steps",
        "layers/core.py",
        "return steps.put(da @ W.T), grads",
        "return steps.put((da @ W.T)[::-1]), grads",
        (CORE,),
    ),
    Error(
        "dense: the mask forgotten in backward",
        "layers/core.py",
        "da = dy = steps.take(dy)",
        "x, y = steps.put(x), steps.put(y)\n"
        "        steps = RealSteps(self.name, x, None)\n        da = dy",
        (CORE,),
    ),
    Error(
        "time distributed: the mask forgotten",
        "layers/core.py",
        "Mask.of(mask) or full_mask(*x.shape[:2]))",
        "full_mask(*x.shape[:2]))",
        (CORE,),
    ),
    Error(
        "a cell that was built before is built again",
        "layers/recurrent.py",
        "if not self.cell.params:  #",
        "if True:  #",
        (RNN,),
    ),
    Error(
        "output and returned state are one array",
        "layers/recurrent.py",
        "return ((y, *last_states(loop)) if",
        "return ((y, y, *last_states(loop)[1:]) if",
        (RNN,),
    ),
    Error(
        "average pooling counts padding",
        "layers/pooling.py",
        "xp.maximum(real.sum(axis=1, keepdims=True), 1)",
        "real.shape[1]",
        (CORE,),
    ),
    Error(
        "dropout does not scale up what it keeps",
        "dropout.py",
        "kept * (1 / (1 - rate))",
        "kept * 1.0",
        (CORE,),
    ),
    Error(
        "softmax backward without its sum",
        "activations.py",
        "y * (dy - (dy * y).sum(axis=-1, keepdims=True))",
        "y * dy",
        (ACTIVATIONS,),
    ),
    Error(
        "derivative of tanh without its square",
        "activations.py",
        "lambda y: 1 - y * y)",
        "lambda y: 1 - y)",
        (ACTIVATIONS,),
    ),
    Error(
        "glorot with the fans of one gate",
        "initializers.py",
        "sum(fans(shape))",
        "fans(shape)[0] * 2",
        (INITIALIZERS,),
    ),
    Error(
        "orthogonal without the signs of R",
        "initializers.py",
        "q *= np.sign(np.diag(r))",
        "q *= 1",
        (INITIALIZERS,),
    ),
    # --- losses and optimizers ---
    Error(
        "cross-entropy from logits: the label's 1 not subtracted",
        "losses.py",
        "exps[rows, labels] -= 1",
        "exps[rows, labels] -= 0",
        (LOSSES,),
    ),
    Error(
        "cross-entropy from probabilities: division by the sum forgotten",
        "losses.py",
        "dp[...] = -(dtrue * true)[:, None]",
        "dp[...] = 0",
        (LOSSES,),
    ),
    Error(
        "weights of rows and classes: rows taken for steps",
        "training.py",
        "weight = weight[:, None]  #",
        "weight = weight[None, :]  #",
        (f"{TRAINING}::test_class_weights_per_step_with_sample_weights",),
    ),
    Error(
        "weights of rows and classes: no axis for the steps",
        "training.py",
        "if weight is not None and weight.ndim < by_class.ndim:",
        "if False:",
        (f"{TRAINING}::test_class_weights_per_step_with_sample_weights",),
    ),
    Error(
        "weights of classes: the last axis of a column of labels kept",
        "training.py",
        "if y.ndim > 1 and y.shape[-1] == 1:",
        "if False:",
        (f"{TRAINING}::test_class_weights_per_step_with_sample_weights",),
    ),
    Error(
        "an evaluation inside a training resets its metrics",
        "steps.py",
        "copy.deepcopy(model.metrics)",
        "model.metrics",
        (f"{TRAINING}::test_an_evaluation_inside_a_training_leaves_its_figures_alone",),
    ),
    Error(
        "threads: a step does not wait for its turn",
        "turns.py",
        "if self.queue or self.writer is not None or (alone and self.readers):",
        "if False:",
        (TURNS,),
    ),
    Error(
        "threads: a prediction beside training sees rows that wait",
        "turns.py",
        "new for weights, new in model.optimizer.settled_copies()",
        "weights.copy() for weights, new in model.optimizer.settled_copies()",
        (TURNS,),
    ),
    Error(
        "threads: looking at a model in training settles its rows",
        "turns.py",
        "        kept = [model.optimizer, model.vectorizer]\n",
        "        kept = [model.optimizer, model.vectorizer]\n        model.optimizer.settle()\n",
        (TURNS,),
    ),
    Error(
        "threads: a copied optimizer still moves the weights of the model it comes from",
        "optimizers.py",
        'return self.__dict__ | {"_parts": [], "_planned": {}, "_scratch": []}',
        "return self.__dict__",
        (TURNS,),
    ),
    Error(
        "threads: all draw from one generator",
        "backend.py",
        "    return _own.get(_generator)",
        "    return _generator",
        (TURNS,),
    ),
    Error(
        "lines: what was read of a line is dropped at the next read",
        "lines.py",
        "begun.append(tail)",
        "begun = [tail]",
        (LINES,),
    ),
    Error(
        "lines: a line waits until its batch is full",
        "lines.py",
        "if error is None and more_comes(file) else 0",
        "if error is None else 0",
        (LINES,),
    ),
    Error(
        "long runs: a reader that is left alone keeps its thread",
        "data/prefetch.py",
        "        stop.set()\n",
        "",
        (LONG_RUNS,),
    ),
    Error(
        "long runs: what is remembered of texts without tokens takes no room",
        "batches.py",
        "len(text) + ids.nbytes + REMEMBERED_EACH for text",
        "ids.nbytes for text",
        (LONG_RUNS,),
    ),
    Error(
        "plateau: a rate below min_lr raised to it",
        "callbacks.py",
        "if optimizer.learning_rate > self.min_lr:",
        "if True:",
        (CALLBACKS,),
    ),
    Error(
        "one text taken for a row of letters",
        "batches.py",
        "texts[None] if texts.ndim == 0 else texts",
        "np.array(list(texts.item()), dtype=object) if texts.ndim == 0 else texts",
        (MODELS,),
    ),
    Error(
        "adam: first average not corrected for its start",
        "optimizers.py",
        "math.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t)",
        "math.sqrt(1 - self.beta_2**t)",
        (OPTIMIZERS,),
    ),
    Error(
        "adam: epsilon left out of the scaling",
        "optimizers.py",
        "epsilon = self.epsilon / math.sqrt(v_scale)",
        "epsilon = self.epsilon",
        (OPTIMIZERS,),
    ),
    # --- generating, sequence to sequence, word vectors ---
    Error(
        "generating: temperature multiplies",
        "generation.py",
        "keepdims=True)) / temperature",
        "keepdims=True)) * temperature",
        (GENERATION,),
    ),
    Error(
        "generating: the states of a step not handed on",
        "generation.py",
        "logits, states = step(layers,",
        "logits, _ = step(layers,",
        (GENERATION,),
    ),
    Error(
        "generating: drawn before the beginning is read",
        "generation.py",
        "(lengths <= t + 1)",
        "(lengths <= t + 2)",
        (GENERATION,),
    ),
    Error(
        "generating: rows that have ended go on",
        "generation.py",
        "(lengths <= t + 1) & ~ended",
        "(lengths <= t + 1)",
        (GENERATION,),
    ),
    Error(
        "generating: the least likely left in",
        "generation.py",
        "np.where(logits < least",
        "np.where(logits > least",
        (GENERATION,),
    ),
    Error(
        "seq2seq: the states' gradients taken in the wrong order",
        "encoder_decoder.py",
        "dstates.insert(0, dstate)",
        "dstates.append(dstate)",
        (SEQ2SEQ,),
    ),
    Error(
        "seq2seq: the encoder's gradients forgotten",
        "encoder_decoder.py",
        "dy = (dy, *dstates.pop())",
        "dy = (dy, *(None for _ in dstates.pop()))",
        (SEQ2SEQ,),
    ),
    Error(
        "seq2seq: states given to the wrong layers",
        "encoder_decoder.py",
        "states.pop(0)}",
        "states.pop()}",
        (SEQ2SEQ,),
    ),
    Error(
        "seq2seq: the source's mask forgotten",
        "encoder_decoder.py",
        "            y, cache = layer.forward(x, mask=mask, training=training)\n",
        "            y, cache = layer.forward(x, training=training)\n",
        (SEQ2SEQ,),
    ),
    Error(
        "seq2seq: the target not shifted",
        "teacher_forcing.py",
        "expected = np.pad(y, [(0, 0), (0, 1)])",
        "expected = np.pad(y, [(0, 0), (1, 0)])",
        (SEQ2SEQ,),
    ),
    Error(
        "seq2seq: the end behind the padding",
        "teacher_forcing.py",
        "real.sum(axis=1)] = end",
        "-1] = end",
        (SEQ2SEQ,),
    ),
    Error(
        "seq2seq: padding in the loss",
        "seq2seq.py",
        "return y, cache, self.compute_mask(x)",
        "return y, cache, None",
        (SEQ2SEQ,),
    ),
    Error(
        "word2vec: the true neighbour taken for noise",
        "word2vec.py",
        "ds[:, 0] -= 1",
        "ds[:, 0] -= 0",
        (VECTORS,),
    ),
    Error(
        "word2vec: the mean's factor forgotten",
        "word2vec.py",
        "ds *= 1 / len(v)",
        "ds *= 1",
        (VECTORS,),
    ),
    Error(
        "word2vec: pairs across rows",
        "word2vec.py",
        "row[distance:] == row[:-distance]",
        "row[distance:] >= row[:-distance]",
        (VECTORS,),
    ),
    Error(
        "word vectors: a row too far in the table",
        "vectors.py",
        "table[known] = vectors[[place[tokens[i]] for i in known]]",
        "table[known] = vectors[[place[tokens[i]] - 1 for i in known]]",
        (VECTORS,),
    ),
    Error(
        "word vectors: the last of equal words kept",
        "vectors.py",
        "reversed(list(enumerate(words)))",
        "enumerate(words)",
        (VECTORS,),
    ),
    # --- rows of a table that wait ---
    Error(
        "waiting rows: caught up, but not marked as such",
        "stepping.py",
        "moved\n        self.had_factors[rows] = self.factors",
        "moved\n        self.had_factors[rows] += 0",
        (OPTIMIZERS,),
    ),
    Error(
        "waiting rows: the epsilons that a row has had not marked",
        "stepping.py",
        "\n        self.had_weighted[rows] = self.weighted",
        "\n        self.had_weighted[rows] += 0",
        (OPTIMIZERS,),
    ),
    Error(
        "waiting rows: caught up after they learned",
        "stepping.py",
        "            self.catch_up(to_host(gradient.ids), scratch)\n"
        "        self.learn_rows(gradient, learn, scratch)\n",
        "            pass\n"
        "        self.learn_rows(gradient, learn, scratch)\n"
        "        if wait and self.factors:\n"
        "            self.catch_up(to_host(gradient.ids), scratch)\n",
        (OPTIMIZERS,),
    ),
    Error(
        "waiting rows: settled, but not marked as such",
        "stepping.py",
        "        self.factors = self.weighted = 0.0\n        self.had_factors[:] = 0\n",
        "        self.had_factors[:] = 0\n",
        (OPTIMIZERS,),
    ),
    Error(
        "waiting rows: what a row has had forgotten only in part",
        "stepping.py",
        "        self.had_factors[:] = 0\n        self.had_weighted[:] = 0\n",
        "        self.had_weighted[:] = 0\n",
        (OPTIMIZERS,),
    ),
    Error(
        "waiting rows: epsilons a row has had kept when it is settled",
        "stepping.py",
        "        self.had_factors[:] = 0\n        self.had_weighted[:] = 0\n",
        "        self.had_factors[:] = 0\n",
        (OPTIMIZERS,),
    ),
    Error(
        "waiting rows: the sum of the epsilons for their mean",
        "stepping.py",
        "epsilon /= factor + had_all",
        "epsilon += 0",
        (OPTIMIZERS,),
    ),
    Error(
        "waiting rows: epsilon left out of their move",
        "stepping.py",
        "self.weighted += drift.factor * drift.epsilon",
        "self.weighted += 0",
        (OPTIMIZERS,),
    ),
    Error(
        "waiting rows: moved by the last step's factor alone",
        "stepping.py",
        "self.factors += drift.factor",
        "self.factors = drift.factor",
        (OPTIMIZERS,),
    ),
    Error(
        "waiting rows: not settled before a step that does not wait",
        "stepping.py",
        "        if not wait:\n            self.settle(scratch)\n",
        "        if not wait:\n            pass\n",
        (OPTIMIZERS,),
    ),
    Error(
        "waiting rows: not settled before a dense gradient",
        "stepping.py",
        "            self.settle(scratch)\n            self.wake(slice(None))\n",
        "            self.wake(slice(None))\n",
        (OPTIMIZERS,),
    ),
    Error(
        "waiting rows: epsilon taken for steady where it is not",
        "stepping.py",
        "wait = wait and drift is not None and drift.steady",
        "wait = wait and drift is not None",
        (OPTIMIZERS,),
    ),
    Error(
        "waiting rows: blocks of rows that learned not woken",
        "stepping.py",
        "self.wake(gradient.ids // self.live_rows)",
        "self.wake(slice(0))",
        (OPTIMIZERS,),
    ),
    Error(
        "waiting rows: the averages of other rows",
        "stepping.py",
        "slots = [table.take(chosen, axis=0) for table in self.tables]\n            moved -=",
        "slots = [table[: len(chosen)].copy() for table in self.tables]\n            moved -=",
        (OPTIMIZERS,),
    ),
    # --- several ranks ---
    Error(
        "ranks: shares of differing size count alike",
        "parallel/exchange.py",
        "xp.multiply(gradient, elements, out=view)",
        "view[...] = gradient",
        (f"{RANKS}::test_gradients_are_summed_with_the_weight_of_their_elements",),
    ),
    Error(
        "ranks: rows of one id from two ranks not added up",
        "parallel/exchange.py",
        "return sum_equal_ids(ids, rows, len(table))",
        "return RowGradient(ids, rows)",
        (f"{RANKS}::test_gradients_are_summed_with_the_weight_of_their_elements",),
    ),
    Error(
        "ranks: the sum of means in place of their mean",
        "parallel/shared_steps.py",
        "share = 1 / max(all_elements, 1)",
        "share = self.ranks.size / max(all_elements, 1)",
        (f"{RANKS}::test_several_ranks_train_as_one_process_does",),
    ),
    Error(
        "ranks: each adds up the rows beginning with its own",
        "parallel/exchange.py",
        "        return all_ids, all_rows\n\n\ndef gather_ids",
        "        turn = -int(counts[: self.comm.rank].sum())\n"
        "        return np.roll(all_ids, turn), np.roll(all_rows, turn, axis=0)\n\n\n"
        "def gather_ids",
        (f"{RANKS}::test_all_ranks_have_the_same_bits",),
    ),
    Error(
        "ranks: a part of a batch padded to its own longest row",
        "batches.py",
        "length=max(map(len, taken), default=0)",
        "length=max(map(len, taken[part]), default=0)",
        (f"{RANKS}::test_shares_are_padded_as_the_whole_batch",),
    ),
    Error(
        "ranks: padding drifts on those ranks that have some",
        "parallel/shared_steps.py",
        "if self.table.mask_zero:",
        "if False:",
        (f"{RANKS}::test_all_ranks_have_the_same_bits",),
    ),
    Error(
        "ranks: all draw the same for dropout",
        "parallel/shared_steps.py",
        "[self.ranks.draws, self.ranks.rank, self.model.optimizer.iterations]",
        "[self.ranks.draws, 0, self.model.optimizer.iterations]",
        (f"{RANKS}::test_dropout_draws_differ_between_ranks_steps_and_layers",),
    ),
    # a training that is broken off and goes on
    Error(
        "a checkpoint forgets the random generator",
        "checkpoint.py",
        'set_generator_state(header["random"])',
        "pass",
        (CHECKPOINT,),
    ),
    Error(
        "a checkpoint forgets what rows of a table wait for",
        "stepping.py",
        'self.factors, self.weighted, self.drift = state["factors"], state["weighted"], drift',
        "self.factors, self.weighted, self.drift = 0.0, 0.0, drift",
        (CHECKPOINT,),
    ),
    Error(
        "the running means of the epoch begin anew",
        "steps.py",
        "self.means.restore(standing.figures)",
        "pass",
        (CHECKPOINT,),
    ),
    Error(
        "a walk that goes on draws another order",
        "batches.py",
        "return draws_from(self.drawn_from).permutation(self.data.rows)",
        "return generator().permutation(self.data.rows)",
        (CHECKPOINT,),
    ),
    Error(
        "a data set that is walked once more shuffles otherwise",
        "walks.py",
        "self.source.orders = self.orders",
        "pass",
        (CHECKPOINT,),
    ),
    # --- streams of files ---
    Error(
        "stream: the rest of a batch lost where a block ends",
        "data/stream.py",
        "rows = self._rows[self._next :]",
        "rows = []",
        (STREAM,),
    ),
    Error(
        "stream: each epoch in the same order",
        "data/stream.py",
        "[self.stream.seed, self.epoch, number]",
        "[self.stream.seed, 0, number]",
        (STREAM,),
    ),
    Error(
        "stream: a quotation that goes on in the next chunk forgotten",
        "data/shards.py",
        "        self._quoted = quoted\n",
        "        self._quoted = False\n",
        (STREAM,),
    ),
    Error(
        "stream: a position that tells the batch's row in the wrong block",
        "data/stream.py",
        "self._row -= self._of_blocks.popleft()[1]",
        "self._of_blocks.popleft()",
        (STREAM,),
    ),
    Error(
        "stream: the last batch shared out like a whole one",
        "data/stream.py",
        "range(first + n * rank // ranks, first + n * (rank + 1) // ranks)",
        "range(*slice(first + rank * self.stream.batch_size, first + (rank + 1) *"
        " self.stream.batch_size).indices(first + n))",
        (STREAM,),
    ),
    Error(
        "stream: an array_record row gets the record of another",
        "data/shards.py",
        "own.sort(key=lambda place: rows[place][1])",
        "own.sort()",
        (STREAM,),
    ),
    Error(
        "stream: the ids of all texts kept",
        "batches.py",
        'self.room = 0 if hasattr(source, "walk") else REMEMBERED_BYTES',
        "self.room = REMEMBERED_BYTES",
        (STREAM,),
    ),
    # --- bad input ---
    Error(
        "input: a weight larger than its file is made before it is refused",
        "saving.py",
        "            model.build()\n        fill",
        "            pass\n        model.build()\n        fill",
        (FUZZ,),
    ),
    Error(
        "input: the mask of a masked array lost",
        "checks.py",
        "    if isinstance(values, np.ma.MaskedArray):\n",
        "    if False:\n",
        (FUZZ,),
    ),
    Error(
        "input: a state of an optimizer taken as it comes",
        "optimizers.py",
        "        state = _checked_state(type(self).__name__, state)\n",
        "        state = dict(state)\n",
        (FUZZ,),
    ),
]

# Loaded into pytest from the copy: no test result counts unless the copy is what was imported.
GUARD = """\
from pathlib import Path

import pytest
from hypothesis import Phase, settings

# Any failure will do: no time goes into the smallest one.
settings.register_profile("plant", phases=[Phase.explicit, Phase.generate])
settings.load_profile("plant")


def pytest_sessionstart(session):
    import minirnn

    here, there = Path(__file__).resolve().parent, Path(minirnn.__file__).resolve().parent
    if there != here / "minirnn":
        pytest.exit(f"the copy is in {here}, but minirnn was imported from {there}", returncode=99)
"""


class Broken(Exception):
    """The script cannot do its work."""


def copy_project(target: Path) -> None:
    """The library, its tests and pytest's settings, in `target`."""
    skip = shutil.ignore_patterns("__pycache__", ".hypothesis", ".pytest_cache")
    for folder in ("minirnn", "tests"):
        shutil.copytree(ROOT / folder, target / folder, ignore=skip)
    shutil.copy(ROOT / "setup.cfg", target)
    (target / "plant_guard.py").write_text(GUARD)


def with_error(error: Error, project: Path) -> str:
    """The source of the error's file, with the error in it.

    Raises:
        Broken: if the old text does not stand in the file exactly once.
    """
    source = (project / "minirnn" / error.file).read_text(encoding="utf-8")
    count = source.count(error.old)
    if count != 1:
        raise Broken(
            f"{error.name!r}: {error.old!r} stands {count} times in {error.file}, not once"
        )
    return source.replace(error.old, error.new)


def plant(error: Error, project: Path) -> None:
    """Make one replacement in a copy."""
    path = project / "minirnn" / error.file
    path.write_text(with_error(error, project), encoding="utf-8")
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()


def run_tests(project: Path, tests: tuple[str, ...]) -> tuple[bool, str]:
    """Whether all tests pass in this copy, and what pytest said."""
    environment = os.environ | {
        "PYTHONPATH": str(project),
        "MINIRNN_BACKEND": "numpy",
        "MINIRNN_COMPILED": "0",  # else Numba's loops run in place of those of cells.py
        # Several run at a time, and the products are tiny.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=line", "-p", "no:cacheprovider"]
    command += ["-p", "plant_guard", "--hypothesis-seed=0", *tests]
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=600
    )
    output = done.stdout + done.stderr
    if done.returncode not in (0, 1):  # 1: a test failed; anything else: no test was reached
        raise Broken(
            f"pytest ended with {done.returncode} for {' '.join(tests)}:\n{output[-3000:]}"
        )
    return done.returncode == 0, output


def killer(output: str) -> str:
    """The test that failed, as pytest names it."""
    found = re.search(r"^FAILED (?:tests/)?(\S+)", output, flags=re.MULTILINE)
    return found[1] if found else "?"


def try_error(error: Error, clean: Path, work: Path) -> tuple[Error, str | None, float]:
    """Plant one error and test: the test that saw it (None if it survived), and the seconds."""
    start = time.perf_counter()
    project = work / re.sub(r"\W+", "_", error.name)
    shutil.copytree(clean, project)
    plant(error, project)
    passed, output = run_tests(project, error.tests)
    shutil.rmtree(project)
    return error, None if passed else killer(output), time.perf_counter() - start


def check(errors: list[Error], jobs: int) -> int:
    """Run them all, print the table, and give the number of survivors."""
    start = time.perf_counter()
    files = sorted({test.split("::")[0] for error in errors for test in error.tests})
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        clean, work = Path(folder, "clean"), Path(folder, "work")
        clean.mkdir()
        copy_project(clean)
        for error in errors:  # a text that has moved on is told before any test runs
            with_error(error, clean)
        for file, (passed, output) in zip(
            files, pool.map(lambda file: run_tests(clean, (file,)), files), strict=True
        ):
            if not passed:
                raise Broken(f"the unchanged copy fails {file}:\n{output[-3000:]}")
        print(f"unchanged copy: passes ({time.perf_counter() - start:.0f} s)\n", flush=True)

        survivors = []
        widest = max(len(error.name) for error in errors)
        for error, seen_by, seconds in pool.map(lambda e: try_error(e, clean, work), errors):
            if seen_by is None:
                survivors.append(error.name)
            verdict = f"killed by {seen_by}" if seen_by else "SURVIVED"
            print(f"{error.name:{widest}}  {error.file:23} {seconds:5.1f} s  {verdict}", flush=True)
    seconds = time.perf_counter() - start
    print(f"\n{len(errors)} errors planted, {len(survivors)} survived ({seconds:.0f} s)")
    return len(survivors)


def main() -> int:
    summary = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("words", nargs="*", help="only errors with one of these in their name")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default: 2)")
    parser.add_argument(
        "--parity",
        action="store_true",
        help="ask only the tests that compare with PyTorch and Keras, which must be installed",
    )
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    arguments = parser.parse_args()
    errors = [
        error
        for error in ERRORS
        if not arguments.words or any(word in error.name for word in arguments.words)
    ]
    if not errors:
        parser.error(f"no error is called anything like {' or '.join(arguments.words)}")
    if arguments.list:
        print("\n".join(error.name for error in errors))
        return 0
    if arguments.parity:
        # Other libraries compute on the host here, and see nothing of a copy that was forgotten.
        errors = [
            error._replace(tests=PARITY)
            for error in errors
            if error.file in MATHEMATICS and ON_DEVICE not in error.tests
        ]
    try:
        return 1 if check(errors, max(1, arguments.jobs)) else 0
    except Broken as problem:
        print(f"plant_errors: {problem}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
