"""Numba's side of compiled.py: the loops over time as loops over numbers. Needs Numba and SciPy.

Every function lets go of the interpreter lock, makes no large arrays and starts no threads. Letters
are those of cells.py. `plan` is `Packing.plan`: a row for each stretch of k steps of n rows, the
first of whose blocks begins at packed step `block`, the next one `move` further on. B rows are in
the batch.
"""

from __future__ import annotations

import numba
import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  (np.dot is its BLAS; threads.py must find it loaded)

# "contract" lets a product and a sum become one instruction. Sums keep the order written here, so
# that the same numbers come out every time.
compiled = numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")

# Without it, every operation rounds as NumPy's does: the same bits.
rounded = numba.njit(nogil=True, cache=True, error_model="numpy")

ONE, HALF, END = np.float32(1), np.float32(0.5), np.float32(9)
# tanh(x) = x P(x²) / Q(x²) up to |x| = 9, where it is 1 but for the last digit: least squares,
# reweighted until the largest relative error is smallest, 1.3e-9 before rounding.
P = tuple(
    map(
        np.float32,
        (0.999999999, 0.136808455, 3.86949428e-3, 2.80310353e-5, 3.06418718e-8, -1.22457682e-11),
    )
)
Q = tuple(map(np.float32, (1.0, 0.470141776, 2.72501064e-2, 3.94068923e-4, 1.28901592e-6)))


@compiled
def tanh(x):
    """Without branches, so that the compiler can do many numbers at once; NaN stays NaN."""
    x = -END if x < -END else x
    x = END if x > END else x
    y = x * x
    p = ((((P[5] * y + P[4]) * y + P[3]) * y + P[2]) * y + P[1]) * y + P[0]
    q = (((Q[4] * y + Q[3]) * y + Q[2]) * y + Q[1]) * y + Q[0]
    t = x * p / q
    t = -ONE if t < -ONE else t
    return ONE if t > ONE else t


@compiled
def flat(array, first, n):
    """Rows `first` to `first + n`, one after another."""
    return array[first : first + n].reshape(-1)


# --- packing --------------------------------------------------------------------------------------


@rounded
def place_steps(mask, order, offsets, positions):
    """`positions` of a Layout; offsets: where step k's block begins, for k = 0, 1, ..."""
    B, T = mask.shape
    for j in range(B):
        row, k = order[j], 0
        for t in range(T):
            if mask[row, t]:
                positions[offsets[k] + j] = row * T + t
                k += 1


# --- embeddings and their optimizer ---------------------------------------------------------------


@rounded
def grouped_sums(rows, order, starts, sums):
    """sums[k] = rows[order[starts[k]]] + ... + rows[order[starts[k + 1] - 1]], in that order."""
    for k in range(starts.shape[0]):
        stop = starts[k + 1] if k + 1 < starts.shape[0] else order.shape[0]
        total = sums[k]
        total[:] = rows[order[starts[k]]]
        for i in range(starts[k] + 1, stop):
            row = rows[order[i]]
            for j in range(total.shape[0]):
                total[j] += row[j]


@rounded
def adam_learn(ids, g, m_fresh, v_fresh, m, v, root):
    """Adam's `learn` for the rows `ids` of a table; g (rows, width) is their gradient."""
    for r in range(ids.shape[0]):
        if ids[r] < 0 or ids[r] >= m.shape[0]:
            raise IndexError("ids: a row number outside the table")
        g_r, m_r, v_r, root_r = g[r], m[ids[r]], v[ids[r]], root[ids[r]]
        for j in range(g_r.shape[0]):
            m_r[j] += g_r[j] * m_fresh
            v_r[j] += g_r[j] * g_r[j] * v_fresh
            root_r[j] = np.sqrt(v_r[j])


@rounded
def adam(w, g, m, v, root, m_fresh, v_fresh, factor, epsilon):
    """A step of Adam for every number: `learn`, then `move`."""
    for j in range(w.shape[0]):
        m[j] += g[j] * m_fresh
        v[j] += g[j] * g[j] * v_fresh
        root[j] = np.sqrt(v[j])
        w[j] -= m[j] / (root[j] + epsilon) * factor


@rounded
def adam_catch_up(ids, w, m, root, had_factors, had_weighted, factors, weighted):
    """All that the rows `ids` of a waiting table wait for; a row that comes again waits no more."""
    for r in range(ids.shape[0]):
        row = ids[r]
        if row < 0 or row >= w.shape[0]:
            raise IndexError("ids: a row number outside the table")
        waited = factors - had_factors[row]
        if waited != 0:
            epsilon = np.float32((weighted - had_weighted[row]) / waited)
            factor = np.float32(waited)
            w_r, m_r, root_r = w[row], m[row], root[row]
            for j in range(w_r.shape[0]):
                w_r[j] -= m_r[j] / (root_r[j] + epsilon) * factor
            had_factors[row] = factors
            had_weighted[row] = weighted


# --- SimpleRNN ------------------------------------------------------------------------------------


@compiled
def simple_rnn(a, U, history, before, B, plan):
    units = U.shape[0]
    h, u = history[:B].copy(), np.empty((B, units), a.dtype)  # h_{t-1}, then h_t, of every row
    for s in range(plan.shape[0]):
        k, n, block, move = plan[s]
        for _ in range(k):
            np.dot(h[:n], U, u[:n])
            a_t, u_t, h_t = flat(a, block, n), flat(u, 0, n), flat(h, 0, n)
            kept, h_prev = flat(history, B + block, n), flat(before, block, n)
            for j in range(n * units):
                h_prev[j] = h_t[j]
            for j in range(n * units):
                h_t[j] = tanh(a_t[j] + u_t[j])  #         1 2   h_t = tanh(x_t W + b + h_{t-1} U)
            for j in range(n * units):
                kept[j] = h_t[j]
            block += move


@compiled
def simple_rnn_backward(da, h, U_T, dh, dh_given, given, plan):
    units = U_T.shape[1]
    for s in range(plan.shape[0] - 1, -1, -1):
        k, n, first, move = plan[s]
        for t in range(k - 1, -1, -1):
            block = first + t * move
            if given:
                for r in range(n):
                    for j in range(units):
                        dh[r, j] += dh_given[block + r, j]
            da_t, h_t, dh_t = flat(da, block, n), flat(h, block, n), flat(dh, 0, n)
            for j in range(n * units):
                da_t[j] = dh_t[j] * (ONE - h_t[j] * h_t[j])  # 2   da = dh ⊙ tanh'(a)
            np.dot(da[block : block + n], U_T, dh[:n])  #      1   dh_{t-1} = da Uᵀ


# --- LSTM -----------------------------------------------------------------------------------------


@compiled
def lstm(a, U, half, shift, h_history, c_history, h_before, c_before, tanh_c_all, B, plan):
    """half, shift (B, 4 * U): what makes tanh the sigmoid of i, f and o; see LSTMCell."""
    units, width = U.shape
    h, c_all = h_history[:B].copy(), c_history[:B].copy()  # h_{t-1}, then h_t, of every row
    u, half, shift = np.empty((B, width), a.dtype), flat(half, 0, B), flat(shift, 0, B)
    for s in range(plan.shape[0]):
        k, n, block, move = plan[s]
        for _ in range(k):
            np.dot(h[:n], U, u[:n])
            gates, u_t = flat(a, block, n), flat(u, 0, n)
            for j in range(n * width):  #                   1 2   i, f, o = σ(a), g = tanh(a)
                gates[j] = half[j] * tanh(half[j] * (gates[j] + u_t[j])) + shift[j]
            for r in range(n):
                gate, tanh_c, c, h_r = a[block + r], tanh_c_all[block + r], c_all[r], h[r]
                c_t, h_t = c_history[B + block + r], h_history[B + block + r]
                c_prev, h_prev = c_before[block + r], h_before[block + r]
                i, f = gate[:units], gate[units : 2 * units]
                g, o = gate[2 * units : 3 * units], gate[3 * units :]
                for j in range(units):
                    c_prev[j], h_prev[j] = c[j], h_r[j]
                for j in range(units):
                    c[j] = f[j] * c[j] + i[j] * g[j]  #       3   c_t = f ⊙ c_{t-1} + i ⊙ g
                    tanh_c[j] = tanh(c[j])  #                 4   tanh(c_t)
                    h_r[j] = o[j] * tanh_c[j]  #              5   h_t = o ⊙ tanh(c_t)
                    c_t[j], h_t[j] = c[j], h_r[j]
            block += move


@compiled
def lstm_backward(
    da, gates, tanh_c, c_prev, U_T, dh, dc, dh_given, h_given, dc_given, c_given, plan
):
    units = U_T.shape[1]
    for s in range(plan.shape[0] - 1, -1, -1):
        k, n, first, move = plan[s]
        for t in range(k - 1, -1, -1):
            block = first + t * move
            for r in range(n):
                dh_r, dc_r = dh[r], dc[r]
                if h_given:
                    given = dh_given[block + r]
                    for j in range(units):
                        dh_r[j] += given[j]
                if c_given:
                    given = dc_given[block + r]
                    for j in range(units):
                        dc_r[j] += given[j]
                gate, da_t = gates[block + r], da[block + r]
                tanh_c_t, c = tanh_c[block + r], c_prev[block + r]
                i, f = gate[:units], gate[units : 2 * units]
                g, o = gate[2 * units : 3 * units], gate[3 * units :]
                da_i, da_f = da_t[:units], da_t[units : 2 * units]
                da_g, da_o = da_t[2 * units : 3 * units], da_t[3 * units :]
                for j in range(units):
                    da_o[j] = dh_r[j] * tanh_c_t[j] * o[j] * (ONE - o[j])  #       5 2
                    dc_dh = o[j] * (ONE - tanh_c_t[j] * tanh_c_t[j])
                    dc_t = dc_r[j] + dh_r[j] * dc_dh  #  5 4   dc_t += dh ⊙ o ⊙ tanh'(c_t)
                    da_i[j] = dc_t * g[j] * i[j] * (ONE - i[j])  #                 3 2
                    da_f[j] = dc_t * c[j] * f[j] * (ONE - f[j])
                    da_g[j] = dc_t * i[j] * (ONE - g[j] * g[j])
                    dc_r[j] = dc_t * f[j]  #               3   dc_{t-1} = dc_t ⊙ f
            np.dot(da[block : block + n], U_T, dh[:n])  #  1   dh_{t-1} = da Uᵀ
