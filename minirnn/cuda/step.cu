// What a training step is besides its layers: the packing of the batch, the loss, and Adam.
//
// Everything that differs from step to step stands in memory of the device, so that one graph of
// launches serves every batch of a bucket:
//
//   slot      what the host sends for a batch: its number of rows, its padded time steps, the
//             learning rate (a float in an int's place), a label for each row, and the ids (rows,
//             time). Slots take turns, so that the next batch comes in while this one is at work.
//   numbers   of the step, as ints; see the names below
//   powers    beta_1 and beta_2 to the power of the steps done, and alpha, Adam's rate of this step
//   totals    since the host last asked: the sum of losses, the rows classified rightly, all rows

enum Number { COUNT, ROWS, STEP, BATCHES, FAILED };  // packed steps; rows; Adam's steps so far;
                                                     // batches so far; the first that failed
enum Power { POWER_1, POWER_2, ALPHA };
enum Total { LOSS, HITS, SEEN };
constexpr int HEADER = 4, MOST_ROWS = 1024, WARP = 32;
constexpr unsigned ALL = 0xffffffffu;

// --- the packing: as `Layout` in packing.py, for rows of ids ---

// One block. lengths (rows_at_most,) by rank, order (rows_at_most,), offsets (time_at_most + 1,),
// ids (capacity,) packed, labels (rows_at_most,).
extern "C" __global__ void __launch_bounds__(256)
plan(const int* slots, int slots_in_turn, int slot_size, int mask_zero, int rows_at_most,
     int time_at_most, double beta_1, double beta_2, int* numbers, double* powers, int* lengths,
     int* order, int* offsets, int* ids, int* labels) {
  __shared__ int length[MOST_ROWS], rank_of[MOST_ROWS];
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
  const int* const slot = slots + (size_t)(numbers[BATCHES] % slots_in_turn) * slot_size;
  const int rows = slot[0], time = slot[1];
  const int* const batch = slot + HEADER + rows_at_most;

  for (int b = warp; b < rows_at_most; b += warps) {  // each row's real steps
    int steps = 0;
    for (int t = lane; t - lane < time; t += WARP) {
      const bool is_real = b < rows && t < time && (!mask_zero || batch[b * time + t] != 0);
      steps += __popc(__ballot_sync(ALL, is_real));
    }
    if (lane == 0) length[b] = steps;
  }
  __syncthreads();
  for (int b = threadIdx.x; b < rows_at_most; b += blockDim.x) {  // longest first, stable
    int rank = 0;
    for (int other = 0; other < rows_at_most; ++other)
      rank += length[other] > length[b] || (length[other] == length[b] && other < b);
    rank_of[b] = rank;
    order[rank] = b;
    lengths[rank] = length[b];
    labels[b] = b < rows ? slot[HEADER + b] : 0;
  }
  for (int k = threadIdx.x; k <= time_at_most; k += blockDim.x) {  // where step k's block begins
    int before = 0;
    for (int b = 0; b < rows_at_most; ++b) before += min(length[b], k);
    offsets[k] = before;
  }
  __syncthreads();
  for (int b = warp; b < rows; b += warps) {
    int k = 0;
    for (int t = lane; t - lane < time; t += WARP) {
      const int id = t < time ? batch[b * time + t] : 0;
      const bool is_real = t < time && (!mask_zero || id != 0);
      const unsigned votes = __ballot_sync(ALL, is_real);
      if (is_real) ids[offsets[k + __popc(votes & ((1u << lane) - 1))] + rank_of[b]] = id;
      k += __popc(votes);
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    numbers[COUNT] = offsets[time_at_most];
    numbers[ROWS] = rows;
    numbers[BATCHES] += 1;
    if (numbers[FAILED]) return;
    numbers[STEP] += 1;
    powers[POWER_1] = pow(beta_1, (double)numbers[STEP]);
    powers[POWER_2] = pow(beta_2, (double)numbers[STEP]);
    float rate;
    memcpy(&rate, &slot[2], sizeof rate);
    powers[ALPHA] = rate * sqrt(1 - powers[POWER_2]) / (1 - powers[POWER_1]);
  }
}

// --- softmax and cross-entropy together, from logits (rows, classes) ---

__device__ __forceinline__ float largest_of_warp(float x) {
  for (int mask = WARP / 2; mask; mask /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, mask));
  return x;
}
template <class T> __device__ __forceinline__ T sum_of_warp(T x) {
  for (int mask = WARP / 2; mask; mask /= 2) x += __shfl_xor_sync(ALL, x, mask);
  return x;
}
__device__ __forceinline__ int least_of_warp(int x) {
  for (int mask = WARP / 2; mask; mask /= 2) x = min(x, __shfl_xor_sync(ALL, x, mask));
  return x;
}

// One block; a warp takes a row. loss = log Σ exp(logits) - logits[label]; dlogits = (p - y) / rows.
extern "C" __global__ void __launch_bounds__(256)
cross_entropy(const float* logits, const int* labels, float* dlogits, int* numbers, double* totals,
              int classes, int rows_at_most) {
  __shared__ float loss_of[MOST_ROWS];
  __shared__ int hit[MOST_ROWS];
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
  const int rows = numbers[ROWS];
  for (int b = warp; b < rows_at_most; b += warps) {
    const float* const row = logits + (size_t)b * classes;
    float* const drow = dlogits + (size_t)b * classes;
    if (b >= rows) {
      for (int c = lane; c < classes; c += WARP) drow[c] = 0;
      continue;
    }
    float largest = row[0];
    for (int c = lane; c < classes; c += WARP) largest = fmaxf(largest, row[c]);
    largest = largest_of_warp(largest);
    float sum = 0;
    int winner = classes;
    for (int c = lane; c < classes; c += WARP) {
      sum += expf(row[c] - largest);
      if (row[c] == largest) winner = min(winner, c);
    }
    sum = sum_of_warp(sum);
    winner = least_of_warp(winner);
    const int label = labels[b];
    for (int c = lane; c < classes; c += WARP)
      drow[c] = (expf(row[c] - largest) / sum - (c == label ? 1.0f : 0.0f)) / rows;
    if (lane == 0) {
      loss_of[b] = logf(sum) + largest - row[label];
      hit[b] = winner == label;
    }
  }
  __syncthreads();
  if (warp) return;
  double loss = 0;
  int hits = 0;
  for (int b = lane; b < rows; b += WARP) loss += loss_of[b], hits += hit[b];
  loss = sum_of_warp(loss);
  hits = sum_of_warp(hits);
  if (lane) return;
  if (numbers[FAILED]) return;
  if (!isfinite(loss)) {  // this step is not done, nor any after it
    numbers[FAILED] = numbers[BATCHES];
    numbers[STEP] -= 1;
    return;
  }
  totals[LOSS] += loss;
  totals[HITS] += hits;
  totals[SEEN] += rows;
}

// --- the gradient of an embedding: rows of equal ids, added up in the order of the steps ---

// A warp takes a step n; that of an id's first step adds up all of that id. No step of a batch waits
// for another, and nothing has to be sorted or set to zero.
//   ids (N,), dx (N, width), sums (N, width): of step n, if it is its id's first; place (vocabulary,)
//   the first step of each id; touched (vocabulary,) the last batch in which each id came
constexpr int AT_ONCE = 8, COLUMNS = 4;  // rows that are fetched together; columns of each lane
extern "C" __global__ void __launch_bounds__(128)
sum_equal_ids(const int* ids, const float* dx, float* sums, int* place, int* touched,
              const int* numbers, int width) {
  const int n = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
  const int N = numbers[COUNT];
  if (n >= N) return;
  const int id = ids[n];
  for (int m = lane; m - lane < n; m += WARP)
    if (__ballot_sync(ALL, m < n && ids[m] == id)) return;  // not the first
  for (int block = 0; block < width; block += WARP * COLUMNS) {
    float sum[COLUMNS] = {0, 0, 0, 0};
    for (int m = n / WARP * WARP; m < N; m += WARP) {
      const int mine = m + lane;
      unsigned equal = __ballot_sync(ALL, mine >= n && mine < N && ids[mine < N ? mine : 0] == id);
      while (equal) {
        int from[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
          from[i] = equal ? m + __ffs(equal) - 1 : -1;
          equal &= equal - 1;
        }
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
          const int column = block + c * WARP + lane;
          float row[AT_ONCE];
#pragma unroll
          for (int i = 0; i < AT_ONCE; ++i)
            row[i] = from[i] >= 0 && column < width ? dx[(size_t)from[i] * width + column] : 0;
#pragma unroll
          for (int i = 0; i < AT_ONCE; ++i) sum[c] += row[i];
        }
      }
    }
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
      const int column = block + c * WARP + lane;
      if (column < width) sums[(size_t)n * width + column] = sum[c];
    }
  }
  if (lane == 0) place[id] = n, touched[id] = numbers[BATCHES];
}

// --- gradients that are not finite, or whose square is not: the step is not done, nor any after it ---

// grads, size, slices: as for adam_dense. ids, sums, place, width: as for sum_equal_ids; ids is null
// if the table does not learn. grid: (size + N width) / 256.
extern "C" __global__ void __launch_bounds__(256)
check_gradients(const float* grads, const int* ids, const float* sums, const int* place,
                int* numbers, int size, int slices, int slices_apart, int width) {
  const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
  float g = 0;
  if (i < size) {
    for (int slice = 0; slice < slices; ++slice) g += grads[(size_t)slice * slices_apart + i];
  } else if (ids) {
    const size_t n = (i - size) / width;
    if (n < numbers[COUNT] && place[ids[n]] == n) g = sums[i - size];
  }
  if (!isfinite(g * g) && atomicCAS(&numbers[FAILED], 0, numbers[BATCHES]) == 0)
    numbers[STEP] -= 1;
}

// --- Adam: m += (1 - β₁)(g - m), v += (1 - β₂)(g² - v), w -= α m / (√v + ε) ---

__device__ __forceinline__ void adam(float g, float& w, float& m, float& v, float fresh_1,
                                     float fresh_2, float alpha, float epsilon) {
  m += fresh_1 * (g - m);
  v += fresh_2 * (g * g - v);
  w -= alpha * m / (sqrtf(v) + epsilon);
}

// All weights but the table. w, m, v (size,); grads (slices, slices_apart): their sum is g.
extern "C" __global__ void __launch_bounds__(256)
adam_dense(float* w, float* m, float* v, const float* grads, const int* numbers,
           const double* powers, int size, int slices, int slices_apart, float fresh_1,
           float fresh_2, float epsilon) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size || numbers[FAILED]) return;
  float g = 0;
  for (int slice = 0; slice < slices; ++slice) g += grads[(size_t)slice * slices_apart + i];
  adam(g, w[i], m[i], v[i], fresh_1, fresh_2, (float)powers[ALPHA], epsilon);
}

// The table, (vocabulary, width): every row that ever had a gradient moves, also where this batch
// has none for it. grid: rows of the table / 8; a warp takes a row.
extern "C" __global__ void __launch_bounds__(256)
adam_table(float* w, float* m, float* v, const float* sums, const int* place, const int* touched,
           const int* numbers, const double* powers, int vocabulary, int width, float fresh_1,
           float fresh_2, float epsilon) {
  const int row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
  if (row >= vocabulary || numbers[FAILED] || touched[row] == 0) return;
  const bool fresh = touched[row] == numbers[BATCHES];
  const float alpha = (float)powers[ALPHA];
  const float* const g = sums + (size_t)(fresh ? place[row] : 0) * width;
  for (int c = lane; c < width; c += WARP) {
    const size_t i = (size_t)row * width + c;
    adam(fresh ? g[c] : 0.0f, w[i], m[i], v[i], fresh_1, fresh_2, alpha, epsilon);
  }
}
