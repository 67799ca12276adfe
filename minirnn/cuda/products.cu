// Products of matrices whose number of rows only the device knows, each sum in an order that is
// always the same. A captured graph can hold no call of cuBLAS through CuPy, so these are our own.
//
//     project            a = x W + b            for all steps of all rows, in each direction
//     project_backward   dx = Σ da Wᵀ           over the directions
//     sum_outer          dW = xᵀ da, db = Σ da  summed over the steps
//
// A block of 256 threads computes a tile of 64 x 64 results, each thread 4 x 4 of them; factors go
// through shared memory, 16 of the summed index at a time, the next ones being fetched meanwhile.

constexpr int TILE = 64, DEPTH = 16, PER_THREAD = 4, THREADS_OF_TILE = 256;
constexpr int FETCHED = TILE * DEPTH / THREADS_OF_TILE;  // numbers that each thread fetches
constexpr int WIDTH = TILE + 4;  // of a row in shared memory: neighbours in different banks

struct __align__(16) Four { float number[4]; };

struct Tile {
  float (*left)[WIDTH], (*right)[WIDTH];  // (DEPTH, TILE) each, in shared memory
  float sums[PER_THREAD][PER_THREAD];
  int row, column;  // of the results of this thread, in the tile

  __device__ Tile(float (*left)[WIDTH], float (*right)[WIDTH]) : left(left), right(right) {
    row = threadIdx.x / (TILE / PER_THREAD) * PER_THREAD;
    column = threadIdx.x % (TILE / PER_THREAD) * PER_THREAD;
    for (auto& line : sums)
      for (float& sum : line) sum = 0;
  }

  // The i-th number that this thread fetches: its place along the tile and along the depth.
  // Neighbouring threads fetch what is neighbouring in memory.
  template <bool BY_DEPTH> static __device__ __forceinline__ int along(int i) {
    const int e = threadIdx.x + i * THREADS_OF_TILE;
    return BY_DEPTH ? e / DEPTH : e % TILE;
  }
  template <bool BY_DEPTH> static __device__ __forceinline__ int depth(int i) {
    const int e = threadIdx.x + i * THREADS_OF_TILE;
    return BY_DEPTH ? e % DEPTH : e / TILE;
  }

  // sums += Σ_k a(m, k) b(k, n) for first <= k < last; a and b give 0 outside of their matrices.
  // A_BY_DEPTH, B_BY_DEPTH: whether their memory runs along k.
  template <bool A_BY_DEPTH, bool B_BY_DEPTH, class A, class B>
  __device__ __forceinline__ void add(int first, int last, A a, B b) {
    float a_next[FETCHED], b_next[FETCHED];
    auto fetch = [&](int k) {
#pragma unroll
      for (int i = 0; i < FETCHED; ++i) {
        const int ka = k + depth<A_BY_DEPTH>(i), kb = k + depth<B_BY_DEPTH>(i);
        a_next[i] = ka < last ? a(along<A_BY_DEPTH>(i), ka) : 0.0f;
        b_next[i] = kb < last ? b(kb, along<B_BY_DEPTH>(i)) : 0.0f;
      }
    };
    if (first < last) fetch(first);
    for (int k = first; k < last; k += DEPTH) {
      __syncthreads();  // all have used what stands in shared memory
#pragma unroll
      for (int i = 0; i < FETCHED; ++i) {
        left[depth<A_BY_DEPTH>(i)][along<A_BY_DEPTH>(i)] = a_next[i];
        right[depth<B_BY_DEPTH>(i)][along<B_BY_DEPTH>(i)] = b_next[i];
      }
      __syncthreads();
      if (k + DEPTH < last) fetch(k + DEPTH);
#pragma unroll
      for (int d = 0; d < DEPTH; ++d) {
        const Four l = *reinterpret_cast<const Four*>(&left[d][row]);
        const Four r = *reinterpret_cast<const Four*>(&right[d][column]);
#pragma unroll
        for (int i = 0; i < PER_THREAD; ++i)
#pragma unroll
          for (int j = 0; j < PER_THREAD; ++j)
            sums[i][j] = fmaf(l.number[i], r.number[j], sums[i][j]);
      }
    }
  }
};

#define TILE_IN_SHARED_MEMORY \
  __shared__ __align__(16) float left[DEPTH][WIDTH]; \
  __shared__ __align__(16) float right[DEPTH][WIDTH]; \
  Tile tile(left, right)

// a[n] = x[row_of[n]] W + b for n < *count. grid: (columns / 64, rows / 64, directions).
//   x (any rows, F); row_of (N,) or null: the rows of x as they stand; W (F, width), b (width,) or
//   null, `weights_apart` numbers from one direction's to the next; a (directions, capacity, width)
extern "C" __global__ void __launch_bounds__(THREADS_OF_TILE)
project(const float* x, const int* row_of, const float* W, const float* b, float* a,
        const int* count, int features, int width, int capacity, int weights_apart) {
  TILE_IN_SHARED_MEMORY;
  const int N = *count, n_first = blockIdx.y * TILE, j_first = blockIdx.x * TILE;
  if (n_first >= N) return;
  W += (size_t)blockIdx.z * weights_apart;
  a += (size_t)blockIdx.z * capacity * width;
  tile.add<true, false>(
      0, features,
      [=](int m, int k) {
        const int n = n_first + m;
        return n < N ? x[(size_t)(row_of ? row_of[n] : n) * features + k] : 0.0f;
      },
      [=](int k, int j) {
        return j_first + j < width ? W[(size_t)k * width + j_first + j] : 0.0f;
      });
  for (int i = 0; i < PER_THREAD; ++i)
    for (int j = 0; j < PER_THREAD; ++j) {
      const int n = n_first + tile.row + i, column = j_first + tile.column + j;
      if (n < N && column < width)
        a[(size_t)n * width + column] =
            tile.sums[i][j] + (b ? b[(size_t)blockIdx.z * weights_apart + column] : 0.0f);
    }
}

// dx[n] = Σ over directions of da[n] Wᵀ, for n < *count. grid: (features / 64, rows / 64).
extern "C" __global__ void __launch_bounds__(THREADS_OF_TILE)
project_backward(const float* da, const float* W, float* dx, const int* count, int features,
                 int width, int capacity, int weights_apart, int directions) {
  TILE_IN_SHARED_MEMORY;
  const int N = *count, n_first = blockIdx.y * TILE, k_first = blockIdx.x * TILE;
  if (n_first >= N) return;
  for (int way = 0; way < directions; ++way) {
    const float* const da_way = da + (size_t)way * capacity * width;
    const float* const W_way = W + (size_t)way * weights_apart;
    tile.add<true, true>(
        0, width,
        [=](int m, int j) {
          return n_first + m < N ? da_way[(size_t)(n_first + m) * width + j] : 0.0f;
        },
        [=](int j, int k) {
          return k_first + k < features ? W_way[(size_t)(k_first + k) * width + j] : 0.0f;
        });
  }
  for (int i = 0; i < PER_THREAD; ++i)
    for (int j = 0; j < PER_THREAD; ++j) {
      const int n = n_first + tile.row + i, k = k_first + tile.column + j;
      if (n < N && k < features) dx[(size_t)n * features + k] = tile.sums[i][j];
    }
}

// dW[k] = Σ x[row_of[n], k] da[n] and, behind its last row, db = Σ da[n] if `with_bias`.
// The sums are cut into slices of the steps, one gradient each, which Adam adds up.
// grid: (width / 64, (features + with_bias) / 64, directions * slices).
//   x (any rows, features) for each direction, `x_apart` numbers apart; da (directions, capacity,
//   width); grads: where this dW begins, the same `weights_apart` and `slices_apart`
extern "C" __global__ void __launch_bounds__(THREADS_OF_TILE)
sum_outer(const float* x, const int* row_of, const float* da, float* grads, const int* count,
          int features, int with_bias, int width, int capacity, int x_apart, int weights_apart,
          int slices_apart, int slices) {
  TILE_IN_SHARED_MEMORY;
  const int N = *count, way = blockIdx.z / slices, slice = blockIdx.z % slices;
  const int k_first = blockIdx.y * TILE, j_first = blockIdx.x * TILE;
  const int each = ((N + slices - 1) / slices + DEPTH - 1) / DEPTH * DEPTH;
  x += (size_t)way * x_apart;
  da += (size_t)way * capacity * width;
  grads += (size_t)way * weights_apart + (size_t)slice * slices_apart;
  tile.add<false, false>(
      slice * each, min((slice + 1) * each, N),
      [=](int m, int n) {
        const int k = k_first + m;
        if (k >= features) return k == features && with_bias ? 1.0f : 0.0f;
        return x[(size_t)(row_of ? row_of[n] : n) * features + k];
      },
      [=](int n, int j) {
        return j_first + j < width ? da[(size_t)n * width + j_first + j] : 0.0f;
      });
  for (int i = 0; i < PER_THREAD; ++i)
    for (int j = 0; j < PER_THREAD; ++j) {
      const int k = k_first + tile.row + i, column = j_first + tile.column + j;
      if (k < features + with_bias && column < width)
        grads[(size_t)k * width + column] = tile.sums[i][j];
    }
}
