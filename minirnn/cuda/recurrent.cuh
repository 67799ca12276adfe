// What the time loops of all cells share: which thread does what, and the product with U.
//
// One block of threads walks one row of the batch in one direction, over that row's own steps:
// blockIdx.x is the row's rank (its place in the packing, longest first), blockIdx.y the direction.
// So rows of differing length cost what they are long, and no block waits for another.
//
// Four lanes (neighbouring threads) share a unit. For h_{t-1} U each keeps a quarter of that unit's
// columns of U, of all gates, in its registers: U is read once, not once a step. Then the four add
// up what they have. h is handed from thread to thread in shared memory, in two buffers that take
// turns, so that one barrier a step is enough.
//
// All loops take the same arguments; those that a cell has no use for are null, and so may those
// with a `?` be: then they are zeros, or nobody asks for them. N packed steps, B rows, D directions;
// `capacity` >= N is how many steps there is room for; gates * UNITS is the width of a.
//
//   a, gates, da, du      (D, capacity, gates * UNITS); forward turns a into the gates, backward
//                         may turn them into da
//   U, b_u?               (UNITS, gates * UNITS) and (gates * UNITS,) for each direction,
//                         `weights_apart` numbers apart
//   h_first?, c_first?    (B, D * UNITS): the state before the first step
//   h, c?                 (capacity, D * UNITS): after each step, directions side by side
//   h_before?, c_before   (D, capacity, UNITS): before each step
//   extra                 (D, capacity, UNITS): what the cell keeps besides
//   h_last?               (B, D * UNITS): after the last step
//   dh_given?, dc_given?  (capacity, D * UNITS): what reaches the states after each step
//   dh_ends?, dc_ends?    (B, D * UNITS): what reaches the last states; becomes the gradient of the
//                         first ones
//   drop?                 (D, B, UNITS) by rank: recurrent dropout
//   order?                (B,): the rows of B are in the order of the batch, and order[rank] is the
//                         row of a rank; without it they are in the order of the packing
//   lengths, offsets      (B,) steps of each row, by rank; where each step's block begins
//   reverse               a bit for each direction: whether it walks backwards
//
// Compiled for one size of cell: -DUNITS=64, for float or -DREAL=double. Where a cell's U is too
// large for the registers, the last IN_SHARED numbers of each lane and gate stand in shared memory.
#ifndef REAL
#define REAL float
#endif
#ifndef IN_SHARED
#define IN_SHARED 0
#endif
#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) unsigned char dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(dynamic_shared)
#endif

typedef REAL real;

__device__ constexpr int up_to(int n, int step) { return (n + step - 1) / step * step; }

constexpr int LANES = 4;                             // that share a unit
constexpr int THREADS = up_to(UNITS, 8) * LANES;     // of a block: whole warps
constexpr int BLOCKS = THREADS <= 256 ? 2 : 1;        // that fit on a multiprocessor at once
constexpr unsigned ALL = 0xffffffffu;                // lanes of a warp

// Numbers that are read from shared memory in one go.
template <int N> struct __align__(N * sizeof(real)) Several { real number[N]; };

__device__ __forceinline__ float tanh_of(float a) { return tanhf(a); }
__device__ __forceinline__ double tanh_of(double a) { return tanh(a); }

// --- a vector of shared memory times a part of a matrix, kept by the lanes of a team ---
//
// A team of `TEAM` lanes computes `OUT` sums over `LENGTH` numbers each. The numbers are dealt out
// to the lanes by `TOGETHER` at a time, so that a team reads one stretch of shared memory at once.
template <int OUT, int LENGTH, int TEAM>
struct Part {
  static constexpr int TOGETHER = LENGTH >= 4 * TEAM ? 4 : LENGTH >= 2 * TEAM ? 2 : 1;
  static constexpr int PADDED = up_to(LENGTH, TEAM * TOGETHER);  // of the vector; filled with 0
  static constexpr int SHARE = PADDED / TEAM;                    // numbers of each lane
  static constexpr int SHARED = IN_SHARED < SHARE ? up_to(IN_SHARED, TOGETHER) : SHARE;
  static constexpr int KEPT = SHARE - SHARED;                    // of which in registers
  real kept[OUT][KEPT > 0 ? KEPT : 1];
  real* in_shared;

  // The i-th number of this lane's share is the vector's number ...
  static __device__ __forceinline__ int place(int i, int lane) {
    return (i / TOGETHER * TEAM + lane) * TOGETHER + i % TOGETHER;
  }

  // weight(out, k): the matrix's number, asked for once.
  template <class Weight> __device__ __forceinline__ void load(int lane, real* shared, Weight weight) {
    in_shared = shared + threadIdx.x;
#pragma unroll
    for (int i = 0; i < SHARE; ++i)
#pragma unroll
      for (int out = 0; out < OUT; ++out) {
        const int k = place(i, lane);
        const real w = k < LENGTH ? weight(out, k) : real(0);
        if (i < KEPT) kept[out][i < KEPT ? i : 0] = w;
        else in_shared[((i - KEPT) * OUT + out) * THREADS] = w;
      }
  }

  // sums[out] = this lane's share of Σ_k vector[k] weight(out, k).
  __device__ __forceinline__ void product(int lane, const real* vector, real (&sums)[OUT]) const {
#pragma unroll
    for (int out = 0; out < OUT; ++out) sums[out] = 0;
#pragma unroll
    for (int i = 0; i < SHARE; i += TOGETHER) {
      const Several<TOGETHER> v =
          *reinterpret_cast<const Several<TOGETHER>*>(vector + place(i, lane));
#pragma unroll
      for (int e = 0; e < TOGETHER; ++e)
#pragma unroll
        for (int out = 0; out < OUT; ++out) {
          const real w = i < KEPT ? kept[out][i < KEPT ? i + e : 0]
                                  : in_shared[((i + e - KEPT) * OUT + out) * THREADS];
          sums[out] = fma(v.number[e], w, sums[out]);
        }
    }
  }
};

// --- adding up within a team, in an order that is always the same ---

// Four sums over four lanes: lane q of the four gets sum q.
__device__ __forceinline__ real sum_to_lane(const real (&s)[4], int q) {
  const bool upper = q & 2, odd = q & 1;
  const real keep_0 = upper ? s[2] : s[0], keep_1 = upper ? s[3] : s[1];
  const real give_0 = upper ? s[0] : s[2], give_1 = upper ? s[1] : s[3];
  const real sum_0 = keep_0 + __shfl_xor_sync(ALL, give_0, 2);
  const real sum_1 = keep_1 + __shfl_xor_sync(ALL, give_1, 2);
  return (odd ? sum_1 : sum_0) + __shfl_xor_sync(ALL, odd ? sum_0 : sum_1, 1);
}

// One sum over four lanes: all four get it.
__device__ __forceinline__ real sum_of_lanes(real s) {
  s += __shfl_xor_sync(ALL, s, 2);
  return s + __shfl_xor_sync(ALL, s, 1);
}

// Four sums over sixteen lanes: the lanes 4 q to 4 q + 3 get sum q.
__device__ __forceinline__ real sum_to_quad(const real (&s)[4], int lane) {
  const bool upper = lane & 8, odd = lane & 4;
  const real keep_0 = upper ? s[2] : s[0], keep_1 = upper ? s[3] : s[1];
  const real give_0 = upper ? s[0] : s[2], give_1 = upper ? s[1] : s[3];
  const real sum_0 = keep_0 + __shfl_xor_sync(ALL, give_0, 8);
  const real sum_1 = keep_1 + __shfl_xor_sync(ALL, give_1, 8);
  return sum_of_lanes((odd ? sum_1 : sum_0) + __shfl_xor_sync(ALL, odd ? sum_0 : sum_1, 4));
}

// --- h_{t-1} U, and da Uᵀ ---

// A unit's columns of U, in its four lanes. Sum `gate` is (h U) of that gate and unit.
template <int GATES> using Columns = Part<GATES, UNITS, LANES>;

template <int GATES>
__device__ __forceinline__ void load_columns(Columns<GATES>& part, const real* U, int u, int q,
                                             real* shared) {
  part.load(q, shared, [=](int gate, int k) {
    return u < UNITS ? U[(k * GATES + gate) * UNITS + u] : real(0);
  });
}

// Four units' rows of U, in sixteen lanes: the four units that those lanes share. Sum `i` is
// (da Uᵀ) of the i-th of them, and `sum_to_quad` brings it to the lanes of its unit.
template <int GATES> using Rows = Part<4, GATES * UNITS, 16>;

template <int GATES>
__device__ __forceinline__ void load_rows(Rows<GATES>& part, const real* U, int u, int lane,
                                          real* shared) {
  part.load(lane, shared, [=](int i, int j) {
    const int unit = u / 4 * 4 + i;
    return unit < UNITS ? U[unit * GATES * UNITS + j] : real(0);
  });
}

// --- where a row's steps stand ---

// A row's walk through the packed steps, from its first to its last, or back. Step k of the row
// stands at `offsets[k] + rank`; `next` gives one place after the other, and the last one again
// when there are no more, so that a loop may ask ahead.
struct Walk {
  const int* offset;
  int rank, steps, left, forwards, here;
  __device__ __forceinline__ Walk(const int* lengths, const int* offsets, int reverse, bool back)
      : rank(blockIdx.x), steps(lengths[blockIdx.x]), left(steps), here(0) {
    const bool from_the_last = (reverse >> blockIdx.y & 1) != back;
    forwards = from_the_last ? -1 : 1;
    offset = offsets + (from_the_last ? steps - 1 : 0);
  }
  __device__ __forceinline__ int next() {
    if (left > 0) {
      here = *offset + rank;
      offset += forwards;
      --left;
    }
    return here;
  }
};
