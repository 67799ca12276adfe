// LSTM's loop over time: all steps of all rows, in both directions, in one launch.
//
//     a = a_t + h_{t-1} U                  a_t = x_t W + b has been computed for all steps
//     i, f, o = σ(a_i), σ(a_f), σ(a_o)     g = tanh(a_g)
//     c_t = f ⊙ c_{t-1} + i ⊙ g            h_t = o ⊙ tanh(c_t)
//
// (Hochreiter & Schmidhuber, 1997; LSTMCell in cells.py.) Who does what: recurrent.cuh. Of a unit's
// four lanes, lane q computes gate q of i f g o.
//
// The arrays, and which may be null: recurrent.cuh. a becomes the gates, da is du as well, and
// what is kept besides is tanh(c_t); b_u is not used.

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
lstm_forward(real* a, const real* U, const real* b_u, const real* h_first, const real* c_first,
             const real* drop, real* h_all, real* c_all, real* h_before, real* c_before,
             real* tanh_c, real* h_last, const int* order, const int* lengths, const int* offsets,
             int rows, int capacity, int weights_apart, int reverse) {
  DYNAMIC_SHARED(real, weights_in_shared);
  __shared__ __align__(32) real h_shared[2 * Columns<4>::PADDED];
  const int u = threadIdx.x / LANES, q = threadIdx.x % LANES, team = threadIdx.x % 32 / 4 * 4;
  const int way = blockIdx.y, width = gridDim.y * UNITS, at = way * UNITS + u;
  const bool real_unit = u < UNITS;
  Walk walk(lengths, offsets, reverse, false);
  const int row = order ? order[walk.rank] : walk.rank;

  Columns<4> columns;
  load_columns<4>(columns, U + way * weights_apart, u, q, weights_in_shared);
  for (int k = threadIdx.x; k < 2 * Columns<4>::PADDED; k += THREADS) h_shared[k] = 0;
  __syncthreads();

  real h = h_first && real_unit ? h_first[row * width + at] : real(0);
  real c = c_first && real_unit ? c_first[row * width + at] : real(0);
  const real keep = drop && real_unit ? drop[(way * rows + walk.rank) * UNITS + u] : real(1);
  if (q == 0 && real_unit) h_shared[u] = h * keep;
  a += (size_t)way * capacity * 4 * UNITS + q * UNITS + u;
  if (c_all) c_all += at;
  // Besides its gate, each lane keeps one of the four other things that a step gives.
  const size_t of_way = (size_t)way * capacity * UNITS + u;
  real* const kept = q == 0 ? h_before + of_way : q == 1 ? h_all + at : q == 2 ? c_before + of_way
                                                                              : tanh_c + of_way;
  const int kept_apart = q == 1 ? width : UNITS;
  const bool keeps = real_unit && (q != 0 || h_before);
  // σ(a) = tanh(a / 2) / 2 + 1/2, so that all lanes do the same: one tanh.
  const real half = q == 2 ? real(1) : real(0.5), shift = 1 - half;
  // The input of the next step, and where that of the one after it stands, are fetched ahead.
  int n = walk.next(), n_next = walk.next();
  real a_next = walk.steps && real_unit ? a[n * 4 * UNITS] : real(0);
  __syncthreads();

  for (int s = 0; s < walk.steps; ++s) {
    const real a_t = a_next;
    const int here = n;
    n = n_next;
    n_next = walk.next();
    if (real_unit && n != here) a_next = a[n * 4 * UNITS];

    real sums[4];
    columns.product(q, h_shared + s % 2 * Columns<4>::PADDED, sums);
    real gate = a_t + sum_to_lane(sums, q);  //              a = a_t + h_{t-1} U
    gate = fma(tanh_of(gate * half), half, shift);  //       i, f, o = σ(a), g = tanh(a)
    const real i = __shfl_sync(ALL, gate, team), f = __shfl_sync(ALL, gate, team + 1);
    const real g = __shfl_sync(ALL, gate, team + 2), o = __shfl_sync(ALL, gate, team + 3);
    const real h_prev = h, c_prev = c;
    c = fma(f, c, i * g);  //                                c_t = f ⊙ c_{t-1} + i ⊙ g
    const real squashed = tanh_of(c);
    h = o * squashed;  //                                    h_t = o ⊙ tanh(c_t)
    if (q == 0 && real_unit) h_shared[(s + 1) % 2 * Columns<4>::PADDED + u] = h * keep;
    if (real_unit) a[here * 4 * UNITS] = gate;
    if (keeps) kept[here * kept_apart] = q == 0 ? h_prev : q == 1 ? h : q == 2 ? c_prev : squashed;
    if (c_all && q == 1 && real_unit) c_all[here * width] = c;
    __syncthreads();
  }
  if (h_last && q == 0 && real_unit) h_last[row * width + at] = h;
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
lstm_backward(real* da, real* du, const real* gates, const real* tanh_c, const real* h,
              const real* h_before, const real* c_before, const real* U, const real* dh_given,
              const real* dc_given, real* dh_ends, real* dc_ends, const real* drop,
              const int* order, const int* lengths, const int* offsets, int rows, int capacity,
              int weights_apart, int reverse) {
  DYNAMIC_SHARED(real, weights_in_shared);
  __shared__ __align__(32) real da_shared[2 * Rows<4>::PADDED];
  const int u = threadIdx.x / LANES, q = threadIdx.x % LANES, team = threadIdx.x % 32 / 4 * 4;
  const int lane = threadIdx.x % 16;
  const int way = blockIdx.y, width = gridDim.y * UNITS, at = way * UNITS + u;
  const bool real_unit = u < UNITS;
  Walk walk(lengths, offsets, reverse, true);
  const int row = order ? order[walk.rank] : walk.rank;

  Rows<4> part;
  load_rows<4>(part, U + way * weights_apart, u, lane, weights_in_shared);
  for (int k = threadIdx.x; k < 2 * Rows<4>::PADDED; k += THREADS) da_shared[k] = 0;
  const real keep = drop && real_unit ? drop[(way * rows + walk.rank) * UNITS + u] : real(1);
  real dh_last = dh_ends && real_unit ? dh_ends[row * width + at] : real(0);
  real dc = dc_ends && real_unit ? dc_ends[row * width + at] : real(0);
  const size_t gate_of_way = (size_t)way * capacity * 4 * UNITS + q * UNITS + u;
  const size_t of_way = (size_t)way * capacity * UNITS + u;
  da += gate_of_way, gates += gate_of_way, tanh_c += of_way, c_before += of_way;

  // What a step needs from memory is fetched while the step after it is at work.
  int n = walk.next(), n_next = walk.next();
  real gate = 0, squashed = 0, c_prev = 0, dh_next = 0, dc_next = 0;
  auto fetch = [&](int step) {
    if (!real_unit) return;
    gate = gates[step * 4 * UNITS];
    squashed = tanh_c[step * UNITS];
    c_prev = c_before[step * UNITS];
    if (dh_given) dh_next = dh_given[step * width + at];
    if (dc_given) dc_next = dc_given[step * width + at];
  };
  if (walk.steps) fetch(n);
  __syncthreads();

  real sums[4];
  for (int s = walk.steps - 1, turn = 0; s >= 0; --s, turn ^= 1) {
    // All that does not wait for dh comes first.
    const real i = __shfl_sync(ALL, gate, team), f = __shfl_sync(ALL, gate, team + 1);
    const real g = __shfl_sync(ALL, gate, team + 2), o = __shfl_sync(ALL, gate, team + 3);
    const real slope = q == 2 ? 1 - gate * gate : gate * (1 - gate);  //   σ' or tanh'
    const real local = slope * (q == 0 ? g : q == 1 ? c_prev : q == 2 ? i : squashed);
    const real dc_dh = o * (1 - squashed * squashed);  //                  o ⊙ tanh'(c_t)
    const real dh_here = dh_next + dh_last, dc_here = dc_next;
    const int here = n;
    dh_last = 0;
    n = n_next;
    n_next = walk.next();
    if (n != here) fetch(n);

    part.product(lane, da_shared + turn * Rows<4>::PADDED, sums);
    const real dh = dh_here + sum_to_quad(sums, lane) * keep;  //   dh_t += da_{t+1} Uᵀ
    dc = fma(dh, dc_dh, dc + dc_here);  //                          dc_t += dh ⊙ o ⊙ tanh'(c_t)
    const real da_q = local * (q == 3 ? dh : dc);  //               da_i, da_f, da_g, da_o
    dc *= f;  //                                                    dc_{t-1} = dc_t ⊙ f
    if (real_unit) {
      da_shared[(turn ^ 1) * Rows<4>::PADDED + q * UNITS + u] = da_q;
      da[here * 4 * UNITS] = da_q;
    }
    __syncthreads();
  }
  if (dh_ends) {  // the gradients of the first states
    part.product(lane, da_shared + walk.steps % 2 * Rows<4>::PADDED, sums);
    const real dh = dh_last + sum_to_quad(sums, lane) * keep;
    if (q == 0 && real_unit) dh_ends[row * width + at] = dh;
    if (q == 1 && real_unit && dc_ends) dc_ends[row * width + at] = dc;
  }
}
