// GRU's loop over time: all steps of all rows, in both directions, in one launch.
//
//     u = h_{t-1} U + b_u                  a_t = x_t W + b has been computed for all steps
//     z, r = σ(a_z + u_z), σ(a_r + u_r)    hh = tanh(a_h + r ⊙ u_h)
//     h_t = z ⊙ h_{t-1} + (1 - z) ⊙ hh
//
// (Cho et al., 2014, with the reset gate after the product; GRUCell in cells.py.) Who does what:
// recurrent.cuh. Of a unit's four lanes, the first three compute z, r and hh.
//
// The arrays, and which may be null: recurrent.cuh. a becomes the gates z, r, hh, and what is kept
// besides is u_h; all of c is not used.

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
gru_forward(real* a, const real* U, const real* b_u, const real* first, const real* c_first,
            const real* drop, real* h_all, real* c_all, real* h_before, real* c_before, real* u_h,
            real* last, const int* order, const int* lengths, const int* offsets, int rows,
            int capacity, int weights_apart, int reverse) {
  DYNAMIC_SHARED(real, weights_in_shared);
  __shared__ __align__(32) real h_shared[2 * Columns<3>::PADDED];
  const int u = threadIdx.x / LANES, q = threadIdx.x % LANES, team = threadIdx.x % 32 / 4 * 4;
  const int way = blockIdx.y, width = gridDim.y * UNITS, at = way * UNITS + u;
  const bool real_unit = u < UNITS, has_gate = real_unit && q < 3;
  Walk walk(lengths, offsets, reverse, false);
  const int row = order ? order[walk.rank] : walk.rank;

  Columns<3> columns;
  load_columns<3>(columns, U + way * weights_apart, u, q, weights_in_shared);
  for (int k = threadIdx.x; k < 2 * Columns<3>::PADDED; k += THREADS) h_shared[k] = 0;
  __syncthreads();

  real h = first && real_unit ? first[row * width + at] : real(0);
  const real keep = drop && real_unit ? drop[(way * rows + walk.rank) * UNITS + u] : real(1);
  const real bias = b_u && has_gate ? b_u[way * weights_apart + q * UNITS + u] : real(0);
  if (q == 0 && real_unit) h_shared[u] = h * keep;
  a += (size_t)way * capacity * 3 * UNITS + q * UNITS + u;
  // Three of the four lanes keep what a step gives besides its gates: h_t, u_h, h_{t-1}.
  const size_t of_way = (size_t)way * capacity * UNITS + u;
  real* const kept = q == 1 ? h_all + at : q == 2 ? u_h + of_way : h_before + of_way;
  const int kept_apart = q == 1 ? width : UNITS;
  const bool keeps = real_unit && q != 0;
  // The input of the next step, and where that of the one after it stands, are fetched ahead.
  int n = walk.next(), n_next = walk.next();
  real a_next = walk.steps && has_gate ? a[n * 3 * UNITS] : real(0);
  __syncthreads();

  for (int s = 0; s < walk.steps; ++s) {
    const real a_t = a_next;
    const int here = n;
    n = n_next;
    n_next = walk.next();
    if (has_gate && n != here) a_next = a[n * 3 * UNITS];

    real sums[3];
    columns.product(q, h_shared + s % 2 * Columns<3>::PADDED, sums);
    const real by_lane[4] = {sums[0], sums[1], sums[2], 0};
    const real u_q = sum_to_lane(by_lane, q) + bias;  //                u = h_{t-1} U + b_u
    const real gate = fma(tanh_of((a_t + u_q) * real(0.5)), real(0.5), real(0.5));
    const real z = __shfl_sync(ALL, gate, team);  //                    z, r = σ(a + u)
    const real r = __shfl_sync(ALL, gate, team + 1);
    const real new_u = __shfl_sync(ALL, u_q, team + 2), new_a = __shfl_sync(ALL, a_t, team + 2);
    const real hh = tanh_of(fma(r, new_u, new_a));  //                  hh = tanh(a_h + r ⊙ u_h)
    const real h_prev = h;
    h = fma(z, h - hh, hh);  //                                         h_t = z ⊙ h + (1 - z) ⊙ hh
    if (q == 0 && real_unit) h_shared[(s + 1) % 2 * Columns<3>::PADDED + u] = h * keep;
    if (has_gate) a[here * 3 * UNITS] = q == 2 ? hh : gate;
    if (keeps) kept[here * kept_apart] = q == 1 ? h : q == 2 ? new_u : h_prev;
    __syncthreads();
  }
  if (last && q == 0 && real_unit) last[row * width + at] = h;
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
gru_backward(real* da, real* du, const real* gates, const real* u_h, const real* h,
             const real* h_before, const real* c_before, const real* U, const real* dh_given,
             const real* dc_given, real* dh_ends, real* dc_ends, const real* drop,
             const int* order, const int* lengths, const int* offsets, int rows, int capacity,
             int weights_apart, int reverse) {
  DYNAMIC_SHARED(real, weights_in_shared);
  __shared__ __align__(32) real du_shared[2 * Rows<3>::PADDED];
  const int u = threadIdx.x / LANES, q = threadIdx.x % LANES, team = threadIdx.x % 32 / 4 * 4;
  const int lane = threadIdx.x % 16;
  const int way = blockIdx.y, width = gridDim.y * UNITS, at = way * UNITS + u;
  const bool real_unit = u < UNITS;
  Walk walk(lengths, offsets, reverse, true);
  const int row = order ? order[walk.rank] : walk.rank;

  Rows<3> part;
  load_rows<3>(part, U + way * weights_apart, u, lane, weights_in_shared);
  for (int k = threadIdx.x; k < 2 * Rows<3>::PADDED; k += THREADS) du_shared[k] = 0;
  const real keep = drop && real_unit ? drop[(way * rows + walk.rank) * UNITS + u] : real(1);
  real dh_last = dh_ends && real_unit ? dh_ends[row * width + at] : real(0);
  const int own = min(q, 2);  // the fourth lane takes hh's place at du, where r has come in
  const size_t gates_of_way = (size_t)way * capacity * 3 * UNITS + own * UNITS + u;
  const size_t of_way = (size_t)way * capacity * UNITS + u;
  da += gates_of_way, du += gates_of_way, gates += gates_of_way, u_h += of_way, h_before += of_way;

  // What a step needs from memory is fetched while the step after it is at work.
  int n = walk.next(), n_next = walk.next();
  real gate = 0, new_u = 0, h_prev = 0, dh_next = 0;
  auto fetch = [&](int step) {
    if (!real_unit) return;
    gate = gates[step * 3 * UNITS];
    new_u = u_h[step * UNITS];
    h_prev = h_before[step * UNITS];
    if (dh_given) dh_next = dh_given[step * width + at];
  };
  if (walk.steps) fetch(n);
  __syncthreads();

  real sums[4], through = 0;
  for (int s = walk.steps - 1, turn = 0; s >= 0; --s, turn ^= 1) {
    // All that does not wait for dh comes first.
    const real z = __shfl_sync(ALL, gate, team), r = __shfl_sync(ALL, gate, team + 1);
    const real hh = __shfl_sync(ALL, gate, team + 2);
    const real to_z = (h_prev - hh) * z * (1 - z);  //         da_z = dh ⊙ (h_{t-1} - hh) ⊙ σ'
    const real to_h = (1 - z) * (1 - hh * hh);  //             da_h = dh ⊙ (1 - z) ⊙ tanh'
    const real to_r = to_h * new_u * r * (1 - r);  //          da_r = da_h ⊙ u_h ⊙ σ'
    const real local = q == 0 ? to_z : q == 1 ? to_r : q == 2 ? to_h : to_h * r;
    const real dh_here = dh_next + dh_last + through;
    const int here = n;
    dh_last = 0;
    n = n_next;
    n_next = walk.next();
    if (n != here) fetch(n);

    part.product(lane, du_shared + turn * Rows<3>::PADDED, sums);
    const real dh = dh_here + sum_to_quad(sums, lane) * keep;  //   dh_t += du_{t+1} Uᵀ
    const real d = dh * local;
    through = dh * z;  //                                           dh_{t-1} += dh_t ⊙ z
    if (real_unit) {
      if (q < 3) da[here * 3 * UNITS] = d;
      if (q != 2) {
        du[here * 3 * UNITS] = d;
        du_shared[(turn ^ 1) * Rows<3>::PADDED + own * UNITS + u] = d;
      }
    }
    __syncthreads();
  }
  if (dh_ends) {  // the gradient of the first state
    part.product(lane, du_shared + walk.steps % 2 * Rows<3>::PADDED, sums);
    const real dh = dh_last + through + sum_to_quad(sums, lane) * keep;
    if (q == 0 && real_unit) dh_ends[row * width + at] = dh;
  }
}
