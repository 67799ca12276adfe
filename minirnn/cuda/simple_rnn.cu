// SimpleRNN's loop over time: all steps of all rows, in both directions, in one launch.
//
//     h_t = tanh(a_t + h_{t-1} U)          a_t = x_t W + b has been computed for all steps
//
// (Elman, 1990; SimpleRNNCell in cells.py.) Who does what: recurrent.cuh.
//
// The arrays, and which may be null: recurrent.cuh. da is (D, capacity, UNITS), and is du as well;
// gates, extra and all of c are not used.

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
simple_rnn_forward(const real* a, const real* U, const real* b_u, const real* first,
                   const real* c_first, const real* drop, real* h_all, real* c_all, real* h_before,
                   real* c_before, real* extra, real* last, const int* order, const int* lengths,
                   const int* offsets, int rows, int capacity, int weights_apart, int reverse) {
  DYNAMIC_SHARED(real, weights_in_shared);
  __shared__ __align__(32) real h_shared[2 * Columns<1>::PADDED];
  const int u = threadIdx.x / LANES, q = threadIdx.x % LANES;
  const int way = blockIdx.y, width = gridDim.y * UNITS, at = way * UNITS + u;
  const bool real_unit = u < UNITS;
  Walk walk(lengths, offsets, reverse, false);
  const int row = order ? order[walk.rank] : walk.rank;

  Columns<1> columns;
  load_columns<1>(columns, U + way * weights_apart, u, q, weights_in_shared);
  for (int k = threadIdx.x; k < 2 * Columns<1>::PADDED; k += THREADS) h_shared[k] = 0;
  __syncthreads();

  real h = first && real_unit ? first[row * width + at] : real(0);
  const real keep = drop && real_unit ? drop[(way * rows + walk.rank) * UNITS + u] : real(1);
  if (q == 0 && real_unit) h_shared[u] = h * keep;
  a += (size_t)way * capacity * UNITS + u;
  // Two of the four lanes keep what a step gives: h_t and h_{t-1}.
  real* const kept = q == 2 ? h_before + (size_t)way * capacity * UNITS + u : h_all + at;
  const int kept_apart = q == 1 ? width : UNITS;
  const bool keeps = real_unit && (q == 1 || (q == 2 && h_before));
  // The input of the next step, and where that of the one after it stands, are fetched ahead.
  int n = walk.next(), n_next = walk.next();
  real a_next = walk.steps && real_unit ? a[n * UNITS] : real(0);
  __syncthreads();

  for (int s = 0; s < walk.steps; ++s) {
    const real a_t = a_next;
    const int here = n;
    n = n_next;
    n_next = walk.next();
    if (real_unit) a_next = a[n * UNITS];

    real sums[1];
    columns.product(q, h_shared + s % 2 * Columns<1>::PADDED, sums);
    const real before = h;
    h = tanh_of(a_t + sum_of_lanes(sums[0]));  //            h_t = tanh(a_t + h_{t-1} U)
    if (q == 0 && real_unit) h_shared[(s + 1) % 2 * Columns<1>::PADDED + u] = h * keep;
    if (keeps) kept[here * kept_apart] = q == 1 ? h : before;
    __syncthreads();
  }
  if (last && q == 0 && real_unit) last[row * width + at] = h;
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
simple_rnn_backward(real* da, real* du, const real* gates, const real* extra, const real* h,
                    const real* h_before, const real* c_before, const real* U,
                    const real* dh_given, const real* dc_given, real* dh_ends, real* dc_ends,
                    const real* drop, const int* order, const int* lengths, const int* offsets,
                    int rows, int capacity, int weights_apart, int reverse) {
  DYNAMIC_SHARED(real, weights_in_shared);
  __shared__ __align__(32) real da_shared[2 * Rows<1>::PADDED];
  const int u = threadIdx.x / LANES, q = threadIdx.x % LANES, lane = threadIdx.x % 16;
  const int way = blockIdx.y, width = gridDim.y * UNITS, at = way * UNITS + u;
  const bool real_unit = u < UNITS;
  Walk walk(lengths, offsets, reverse, true);
  const int row = order ? order[walk.rank] : walk.rank;

  Rows<1> part;
  load_rows<1>(part, U + way * weights_apart, u, lane, weights_in_shared);
  for (int k = threadIdx.x; k < 2 * Rows<1>::PADDED; k += THREADS) da_shared[k] = 0;
  const real keep = drop && real_unit ? drop[(way * rows + walk.rank) * UNITS + u] : real(1);
  real dh_last = dh_ends && real_unit ? dh_ends[row * width + at] : real(0);
  da += (size_t)way * capacity * UNITS + u;
  // What a step needs from memory is fetched while the step after it is at work.
  int n = walk.next(), n_next = walk.next();
  real h_next = 0, given_next = 0;
  auto fetch = [&](int step) {
    if (!real_unit) return;
    h_next = h[step * width + at];
    if (dh_given) given_next = dh_given[step * width + at];
  };
  if (walk.steps) fetch(n);
  __syncthreads();

  real sums[4];
  for (int s = walk.steps - 1, turn = 0; s >= 0; --s, turn ^= 1) {
    const real h_t = h_next, given = given_next + dh_last;
    const int here = n;
    dh_last = 0;
    n = n_next;
    n_next = walk.next();
    fetch(n);
    const real slope = 1 - h_t * h_t;

    part.product(lane, da_shared + turn * Rows<1>::PADDED, sums);
    const real dh = given + sum_to_quad(sums, lane) * keep;  // dh_t += da_{t+1} Uᵀ
    const real da_t = dh * slope;  //                           da_t = dh_t ⊙ tanh'(a_t)
    if (real_unit) {
      if (q == 0) da_shared[(turn ^ 1) * Rows<1>::PADDED + u] = da_t;
      if (q == 1) da[here * UNITS] = da_t;
    }
    __syncthreads();
  }
  if (dh_ends) {  // the gradient of the first state
    part.product(lane, da_shared + walk.steps % 2 * Rows<1>::PADDED, sums);
    const real dh = dh_last + sum_to_quad(sums, lane) * keep;
    if (q == 0 && real_unit) dh_ends[row * width + at] = dh;
  }
}
