// The steps of SimpleRNN, LSTM and GRU for many units, forward and backward; see wide.cuh. The
// equations, and the numbers behind them, are those of cells.py.

#define SETTING_OF_A_STEP \
  const int way = blockIdx.z, width = gridDim.z * units, first_unit = blockIdx.x * UNITS_OF_BLOCK; \
  const int first_rank = blockIdx.y * ROWS; \
  const Step step(lengths, offsets, reverse, k, last)
// After the product the first 128 threads take a unit of a row each.
#define ONE_UNIT_OF_ONE_ROW \
  const int r = threadIdx.x / UNITS_OF_BLOCK, rank = first_rank + r; \
  const int j = threadIdx.x % UNITS_OF_BLOCK, u = first_unit + j; \
  if (r >= ROWS || rank >= step.n || u >= units) return; \
  const int here = step.first + rank, at = way * units + u, row = order ? order[rank] : rank; \
  const size_t own = ((size_t)way * capacity + here) * units + u  // in an array by direction

// h_{t-1} U for the units of a block, GATES columns each, in `shared`: column gate * 8 + unit.
template <int GATES>
__device__ __forceinline__ void times_columns(real* shared, const Step& step, const real* U,
                                              const real* h, const real* h_first, const real* drop,
                                              const int* order, int rows, int units, int width,
                                              int way, int first_rank, int first_unit) {
  Product<8 * GATES>::add(
      shared, units,
      [=](int r, int i) {
        const int rank = first_rank + r;
        if (rank >= step.n) return real(0);
        const int before = step.before(rank), at = way * units + i;
        real state = 0;
        if (before >= 0) state = h[(size_t)before * width + at];
        else if (h_first) state = h_first[(order ? order[rank] : rank) * width + at];
        return drop ? state * drop[(way * rows + rank) * units + i] : state;
      },
      [=](int i, int column) {
        const int gate = column / UNITS_OF_BLOCK, u = first_unit + column % UNITS_OF_BLOCK;
        return u < units ? U[(size_t)(i * GATES + gate) * units + u] : real(0);
      });
}

// (du of the step behind) Uᵀ for the units of a block, in `shared`. For `first_states` that of each
// row's first step.
template <int GATES>
__device__ __forceinline__ void times_rows(real* shared, const Step& step, bool first_states,
                                           const real* U, const real* du, int rows, int units,
                                           int capacity, int way, int first_rank, int first_unit) {
  Product<8>::add(
      shared, GATES * units,
      [=](int r, int i) {
        const int rank = first_rank + r;
        if (rank >= (first_states ? rows : step.n)) return real(0);
        int behind = step.behind(rank);
        if (first_states) {
          const int steps = step.lengths[rank];
          behind = steps ? step.offsets[step.backwards ? steps - 1 : 0] + rank : -1;
        }
        return behind >= 0 ? du[((size_t)way * capacity + behind) * GATES * units + i] : real(0);
      },
      [=](int i, int j) {
        const int u = first_unit + j;
        return u < units ? U[(size_t)u * GATES * units + i] : real(0);
      });
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
simple_rnn_step(const real* a, const real* U, const real* b_u, const real* h_first,
                const real* c_first, const real* drop, real* h, real* c, real* h_before,
                real* c_before, real* extra, real* h_last, const int* order, const int* lengths,
                const int* offsets, int rows, int capacity, int weights_apart, int reverse, int k,
                int last, int units) {
  SETTING_OF_A_STEP;
  __shared__ __align__(32) real shared[Product<8>::ROOM];
  if (first_rank >= step.n) return;
  times_columns<1>(shared, step, U + (size_t)way * weights_apart, h, h_first, drop, order, rows,
                   units, width, way, first_rank, first_unit);
  ONE_UNIT_OF_ONE_ROW;
  const int before = step.before(rank);
  const real h_prev = before >= 0 ? h[(size_t)before * width + at]
                                  : h_first ? h_first[row * width + at] : real(0);
  const real h_t = tanh_of(a[own] + Product<8>::sum(shared, r, j));  // 1 2   h_t = tanh(a + h U)
  h[(size_t)here * width + at] = h_t;
  if (h_before) h_before[own] = h_prev;
  if (h_last && step.behind(rank) < 0) h_last[row * width + at] = h_t;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
simple_rnn_step_backward(real* da, real* du, const real* gates, const real* extra, const real* h,
                         const real* h_before, const real* c_before, const real* U,
                         const real* dh_given, const real* dc_given, real* dh_ends, real* dc_ends,
                         const real* drop, const int* order, const int* lengths,
                         const int* offsets, int rows, int capacity, int weights_apart,
                         int reverse, int k, int last, int units, real* carry) {
  SETTING_OF_A_STEP;
  __shared__ __align__(32) real shared[Product<8>::ROOM];
  if (first_rank >= step.n) return;
  times_rows<1>(shared, step, false, U + (size_t)way * weights_apart, du, rows, units, capacity, way,
                first_rank, first_unit);
  ONE_UNIT_OF_ONE_ROW;
  const real keep = drop ? drop[(way * rows + rank) * units + u] : real(1);
  const size_t shown = (size_t)here * width + at;
  real dh = Product<8>::sum(shared, r, j) * keep;  //       1    dh_t += da_{t+1} Uᵀ
  if (dh_given) dh += dh_given[shown];
  if (dh_ends && step.behind(rank) < 0) dh += dh_ends[row * width + at];
  da[own] = dh * (1 - h[shown] * h[shown]);  //             2    da = dh ⊙ tanh'(a)
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
lstm_step(real* a, const real* U, const real* b_u, const real* h_first, const real* c_first,
          const real* drop, real* h, real* c, real* h_before, real* c_before, real* tanh_c,
          real* h_last, const int* order, const int* lengths, const int* offsets, int rows,
          int capacity, int weights_apart, int reverse, int k, int last, int units) {
  SETTING_OF_A_STEP;
  __shared__ __align__(32) real shared[Product<32>::ROOM];
  if (first_rank >= step.n) return;
  times_columns<4>(shared, step, U + (size_t)way * weights_apart, h, h_first, drop, order, rows,
                   units, width, way, first_rank, first_unit);
  ONE_UNIT_OF_ONE_ROW;
  const int before = step.before(rank);
  const size_t shown = (size_t)here * width + at, ended = (size_t)row * width + at;
  real h_prev = 0, c_prev = 0;
  if (before >= 0) h_prev = h[(size_t)before * width + at], c_prev = c[(size_t)before * width + at];
  else h_prev = h_first ? h_first[ended] : real(0), c_prev = c_first ? c_first[ended] : real(0);
  real* const gates = a + ((size_t)way * capacity + here) * 4 * units + u;
  real gate[4];
#pragma unroll
  for (int g = 0; g < 4; ++g) {  //                         1    a = x_t W + b + h_{t-1} U
    const real sum = gates[g * units] + Product<32>::sum(shared, r, g * UNITS_OF_BLOCK + j);
    gate[g] = g == 2 ? tanh_of(sum) : sigmoid(sum);  //     2    i, f, o = σ(a), g = tanh(a)
    gates[g * units] = gate[g];
  }
  const real c_t = gate[1] * c_prev + gate[0] * gate[2];  // 3   c_t = f ⊙ c_{t-1} + i ⊙ g
  const real squashed = tanh_of(c_t);  //                   4    tanh(c_t)
  const real h_t = gate[3] * squashed;  //                  5    h_t = o ⊙ tanh(c_t)
  h[shown] = h_t, c[shown] = c_t;
  tanh_c[own] = squashed, c_before[own] = c_prev;
  if (h_before) h_before[own] = h_prev;
  if (h_last && step.behind(rank) < 0) h_last[ended] = h_t;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
lstm_step_backward(real* da, real* du, const real* gates, const real* tanh_c, const real* h,
                   const real* h_before, const real* c_before, const real* U,
                   const real* dh_given, const real* dc_given, real* dh_ends, real* dc_ends,
                   const real* drop, const int* order, const int* lengths, const int* offsets,
                   int rows, int capacity, int weights_apart, int reverse, int k, int last,
                   int units, real* carry) {
  SETTING_OF_A_STEP;
  __shared__ __align__(32) real shared[Product<8>::ROOM];
  if (first_rank >= step.n) return;
  times_rows<4>(shared, step, false, U + (size_t)way * weights_apart, du, rows, units, capacity, way,
                first_rank, first_unit);
  ONE_UNIT_OF_ONE_ROW;
  const real keep = drop ? drop[(way * rows + rank) * units + u] : real(1);
  const size_t shown = (size_t)here * width + at, ended = (size_t)row * width + at;
  const bool ends = step.behind(rank) < 0;
  const real* const gate = gates + ((size_t)way * capacity + here) * 4 * units + u;
  const real i = gate[0], f = gate[units], g = gate[2 * units], o = gate[3 * units];
  const real squashed = tanh_c[own];
  real dh = Product<8>::sum(shared, r, j) * keep;  //       1    dh_t += da_{t+1} Uᵀ
  real dc = ends ? real(0) : carry[(size_t)rank * width + at];
  if (dh_given) dh += dh_given[shown];
  if (dc_given) dc += dc_given[shown];
  if (ends && dh_ends) dh += dh_ends[ended];
  if (ends && dc_ends) dc += dc_ends[ended];
  dc += dh * o * (1 - squashed * squashed);  //             5 4  dc_t += dh ⊙ o ⊙ tanh'(c_t)
  real* const da_t = da + ((size_t)way * capacity + here) * 4 * units + u;
  da_t[0] = dc * g * i * (1 - i);  //                       3 2  da_i, da_f, da_g
  da_t[units] = dc * c_before[own] * f * (1 - f);
  da_t[2 * units] = dc * i * (1 - g * g);
  da_t[3 * units] = dh * squashed * o * (1 - o);  //        5 2  da_o
  carry[(size_t)rank * width + at] = dc * f;  //            3    dc_{t-1} = dc_t ⊙ f
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
gru_step(real* a, const real* U, const real* b_u, const real* h_first, const real* c_first,
         const real* drop, real* h, real* c, real* h_before, real* c_before, real* u_h,
         real* h_last, const int* order, const int* lengths, const int* offsets, int rows,
         int capacity, int weights_apart, int reverse, int k, int last, int units) {
  SETTING_OF_A_STEP;
  __shared__ __align__(32) real shared[Product<24>::ROOM];
  if (first_rank >= step.n) return;
  times_columns<3>(shared, step, U + (size_t)way * weights_apart, h, h_first, drop, order, rows,
                   units, width, way, first_rank, first_unit);
  ONE_UNIT_OF_ONE_ROW;
  const int before = step.before(rank);
  const real h_prev = before >= 0 ? h[(size_t)before * width + at]
                                  : h_first ? h_first[row * width + at] : real(0);
  real* const gates = a + ((size_t)way * capacity + here) * 3 * units + u;
  real u_b[3];  //                                          1    u = h_{t-1} U + b_u
#pragma unroll
  for (int g = 0; g < 3; ++g)
    u_b[g] = Product<24>::sum(shared, r, g * UNITS_OF_BLOCK + j) +
             (b_u ? b_u[(size_t)way * weights_apart + g * units + u] : real(0));
  const real z = sigmoid(gates[0] + u_b[0]);  //            2    z = σ(a_z + u_z), r alike
  const real reset = sigmoid(gates[units] + u_b[1]);
  const real hh = tanh_of(gates[2 * units] + reset * u_b[2]);  // 3   hh = tanh(a_h + r ⊙ u_h)
  const real h_t = z * (h_prev - hh) + hh;  //              4    h_t = z ⊙ h_{t-1} + (1-z) ⊙ hh
  gates[0] = z, gates[units] = reset, gates[2 * units] = hh;
  h[(size_t)here * width + at] = h_t;
  u_h[own] = u_b[2], h_before[own] = h_prev;
  if (h_last && step.behind(rank) < 0) h_last[row * width + at] = h_t;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
gru_step_backward(real* da, real* du, const real* gates, const real* u_h, const real* h,
                  const real* h_before, const real* c_before, const real* U,
                  const real* dh_given, const real* dc_given, real* dh_ends, real* dc_ends,
                  const real* drop, const int* order, const int* lengths, const int* offsets,
                  int rows, int capacity, int weights_apart, int reverse, int k, int last,
                  int units, real* carry) {
  SETTING_OF_A_STEP;
  __shared__ __align__(32) real shared[Product<8>::ROOM];
  if (first_rank >= step.n) return;
  times_rows<3>(shared, step, false, U + (size_t)way * weights_apart, du, rows, units, capacity, way,
                first_rank, first_unit);
  ONE_UNIT_OF_ONE_ROW;
  const real keep = drop ? drop[(way * rows + rank) * units + u] : real(1);
  const bool ends = step.behind(rank) < 0;
  const real* const gate = gates + ((size_t)way * capacity + here) * 3 * units + u;
  const real z = gate[0], reset = gate[units], hh = gate[2 * units];
  real dh = Product<8>::sum(shared, r, j) * keep;  //       1    dh_t += du_{t+1} Uᵀ
  if (!ends) dh += carry[(size_t)rank * width + at];
  if (dh_given) dh += dh_given[(size_t)here * width + at];
  if (ends && dh_ends) dh += dh_ends[row * width + at];
  const size_t place = ((size_t)way * capacity + here) * 3 * units + u;
  const real da_h = dh * (1 - z) * (1 - hh * hh);  //       4 3
  du[place] = da[place] = dh * (h_before[own] - hh) * z * (1 - z);  //             4 2
  du[place + units] = da[place + units] = da_h * u_h[own] * reset * (1 - reset);  // 4 3 2
  da[place + 2 * units] = da_h;
  du[place + 2 * units] = da_h * reset;
  carry[(size_t)rank * width + at] = dh * z;  //            4    dh_{t-1} += dh_t ⊙ z
}

// Behind the last step: the gradients of the states before each row's first step take the place of
// those of its last state.
template <int GATES>
__device__ __forceinline__ void to_first_states(real* shared, const real* du, const real* U,
                                                real* dh_ends, real* dc_ends, const real* drop,
                                                const int* order, const int* lengths,
                                                const int* offsets, int rows, int capacity,
                                                int weights_apart, int reverse, int units,
                                                const real* carry) {
  const int k = 0, last = 0;
  SETTING_OF_A_STEP;
  times_rows<GATES>(shared, step, true, U + (size_t)way * weights_apart, du, rows, units, capacity,
                    way, first_rank, first_unit);
  const int r = threadIdx.x / UNITS_OF_BLOCK, j = threadIdx.x % UNITS_OF_BLOCK;
  const int rank = first_rank + r, u = first_unit + j, at = way * units + u;
  if (r >= ROWS || rank >= rows || u >= units || lengths[rank] == 0) return;
  const size_t row = (size_t)(order ? order[rank] : rank) * width + at;
  const real keep = drop ? drop[(way * rows + rank) * units + u] : real(1);
  const real carried = carry ? carry[(size_t)rank * width + at] : real(0);
  dh_ends[row] = Product<8>::sum(shared, r, j) * keep + (GATES == 3 ? carried : real(0));
  if (dc_ends) dc_ends[row] = carried;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
simple_rnn_first_states(const real* du, const real* U, real* dh_ends, real* dc_ends,
                        const real* drop, const int* order, const int* lengths,
                        const int* offsets, int rows, int capacity, int weights_apart,
                        int reverse, int units, const real* carry) {
  __shared__ __align__(32) real shared[Product<8>::ROOM];
  to_first_states<1>(shared, du, U, dh_ends, dc_ends, drop, order, lengths, offsets, rows, capacity,
                     weights_apart, reverse, units, carry);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
lstm_first_states(const real* du, const real* U, real* dh_ends, real* dc_ends, const real* drop,
                  const int* order, const int* lengths, const int* offsets, int rows, int capacity,
                  int weights_apart, int reverse, int units, const real* carry) {
  __shared__ __align__(32) real shared[Product<8>::ROOM];
  to_first_states<4>(shared, du, U, dh_ends, dc_ends, drop, order, lengths, offsets, rows, capacity,
                     weights_apart, reverse, units, carry);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
gru_first_states(const real* du, const real* U, real* dh_ends, real* dc_ends, const real* drop,
                 const int* order, const int* lengths, const int* offsets, int rows, int capacity,
                 int weights_apart, int reverse, int units, const real* carry) {
  __shared__ __align__(32) real shared[Product<8>::ROOM];
  to_first_states<3>(shared, du, U, dh_ends, dc_ends, drop, order, lengths, offsets, rows, capacity,
                     weights_apart, reverse, units, carry);
}
