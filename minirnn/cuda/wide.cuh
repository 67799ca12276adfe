// One step of cells that are too large to walk on one multiprocessor: a launch for each step.
//
// A block of 256 threads takes 16 rows and 8 units (blockIdx.x: which units, blockIdx.y: which rows,
// blockIdx.z: the direction). It multiplies the rows' last h with its units' columns of U, and goes
// on with the equations at once. So a step is one launch, and its launches are what puts the steps
// in order.
//
// The arrays are those of the loops (recurrent.cuh), all c after each step among them, and
//   k       the step: that of rows read forwards. Rows read backwards take step `last - k`
//   carry   (B, D * UNITS) by rank: what backward hands from step to step besides da
#ifndef REAL
#define REAL float
#endif
typedef REAL real;

constexpr int THREADS = 256, ROWS = 16, UNITS_OF_BLOCK = 8;
constexpr int CHUNK = 128;           // of a row's numbers, in shared memory at once
constexpr int APART = ROWS + 4;      // from one number to the next of the same row

struct __align__(4 * sizeof(real)) Four { real number[4]; };

__device__ __forceinline__ float tanh_of(float a) { return tanhf(a); }
__device__ __forceinline__ double tanh_of(double a) { return tanh(a); }
__device__ __forceinline__ real sigmoid(real a) {
  return real(0.5) * tanh_of(real(0.5) * a) + real(0.5);
}

// sums of 16 rows times COLUMNS columns, each over `length` numbers: every thread adds up a slice of
// one column for all rows, and then the slices are added, in an order that is always the same.
template <int COLUMNS> struct Product {
  static constexpr int LANES = COLUMNS <= 8 ? 8 : 32;  // threads side by side, one a column
  static constexpr int SLICES = THREADS / LANES;
  static constexpr int ROOM = SLICES * COLUMNS * ROWS > CHUNK * APART ? SLICES * COLUMNS * ROWS
                                                                      : CHUNK * APART;
  // from(row, i) and weight(i, column): the numbers; shared: ROOM of them.
  template <class From, class Weight>
  static __device__ __forceinline__ void add(real* shared, int length, From from, Weight weight) {
    const int column = threadIdx.x % LANES, slice = threadIdx.x / LANES;
    real sums[ROWS];
#pragma unroll
    for (int row = 0; row < ROWS; ++row) sums[row] = 0;
    for (int first = 0; first < length; first += CHUNK) {
      __syncthreads();
      for (int e = threadIdx.x; e < CHUNK * ROWS; e += THREADS) {
        const int i = e % CHUNK, row = e / CHUNK;
        shared[i * APART + row] = first + i < length ? from(row, first + i) : real(0);
      }
      __syncthreads();
      if (column < COLUMNS) {
#pragma unroll 8
        for (int i = slice; i < CHUNK; i += SLICES) {
          const real w = first + i < length ? weight(first + i, column) : real(0);
#pragma unroll
          for (int four = 0; four < ROWS / 4; ++four) {
            const Four v = *reinterpret_cast<const Four*>(shared + i * APART + 4 * four);
#pragma unroll
            for (int e = 0; e < 4; ++e)
              sums[4 * four + e] = fma(v.number[e], w, sums[4 * four + e]);
          }
        }
      }
    }
    __syncthreads();
    if (column < COLUMNS)
#pragma unroll
      for (int row = 0; row < ROWS; ++row) shared[(row * COLUMNS + column) * SLICES + slice] = sums[row];
    __syncthreads();
  }

  static __device__ __forceinline__ real sum(const real* shared, int row, int column) {
    real s = 0;
#pragma unroll
    for (int slice = 0; slice < SLICES; ++slice) s += shared[(row * COLUMNS + column) * SLICES + slice];
    return s;
  }
};

// Which rows take step k of this direction, and where they were before, or will be after.
struct Step {
  const int *lengths, *offsets;
  bool backwards;
  int k, first, n;  // the step, where its block begins, and how many rows it has
  __device__ __forceinline__ Step(const int* lengths, const int* offsets, int reverse, int k, int last)
      : lengths(lengths), offsets(offsets), backwards(reverse >> blockIdx.z & 1) {
    this->k = backwards ? last - k : k;
    first = offsets[this->k];
    n = offsets[this->k + 1] - first;
  }
  // The place of the row's step before this one, or behind it; -1 if this is its first, or last.
  __device__ __forceinline__ int before(int rank) const { return neighbour(rank, backwards ? 1 : -1); }
  __device__ __forceinline__ int behind(int rank) const { return neighbour(rank, backwards ? -1 : 1); }
  __device__ __forceinline__ int neighbour(int rank, int by) const {
    return k + by >= 0 && k + by < lengths[rank] ? offsets[k + by] + rank : -1;
  }
};
