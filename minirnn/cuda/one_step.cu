// One step of all rows, for cells that are too large to walk on one multiprocessor: the product
// h_{t-1} U is the BLAS's, and what is left of the step is one launch. A thread takes one unit of
// one row. The equations, with their numbers, are those of cells.py.
//
// n rows take the step. The arguments are those of the loops (recurrent.cuh), for this step alone,
// so (n, gates * units) or (n, units), and besides:
//   u                     (n, gates * units): h_{t-1} U
//   h, c                  (n, units): the state before, then after the step; h_shown and c_shown
//                         are where it is kept
//   dh, dc                (n, units): what has come from the step behind, through its product
//   drop?, h_in           (n, units): recurrent dropout, and h under it, for the next product
//   through               (n, units): what reaches h_{t-1} and not by way of the product
// They have no size compiled in, but for -DREAL=double.
#ifndef REAL
#define REAL float
#endif
typedef REAL real;

__device__ __forceinline__ float tanh_of(float a) { return tanhf(a); }
__device__ __forceinline__ double tanh_of(double a) { return tanh(a); }
__device__ __forceinline__ real sigmoid(real a) { return real(0.5) * tanh_of(real(0.5) * a) + real(0.5); }

#define ONE_UNIT_OF_ONE_ROW(gates) \
  const int at = blockIdx.x * blockDim.x + threadIdx.x; \
  if (at >= n * units) return; \
  const int first = at / units * (gates) * units + at % units /* gate k: first + k * units */

extern "C" __global__ void __launch_bounds__(256)
simple_rnn_step(const real* a, const real* u, const real* b_u, real* h, real* c, real* h_shown,
     real* c_shown, real* h_before, real* c_before, real* extra, const real* drop, real* h_in,
     int n, int units) {
  ONE_UNIT_OF_ONE_ROW(1);
  h_before[at] = h[at];
  h[at] = h_shown[at] = tanh_of(a[first] + u[first]);  // 1 2   h_t = tanh(x_t W + b + h_{t-1} U)
  if (drop) h_in[at] = h[at] * drop[at];
}

extern "C" __global__ void __launch_bounds__(256)
simple_rnn_step_backward(real* da, real* du, const real* gates, const real* extra, const real* h,
              const real* h_before, const real* c_before, const real* dh_given,
              const real* dc_given, const real* dh, real* dc, real* through, int n, int units) {
  ONE_UNIT_OF_ONE_ROW(1);
  const real d = dh[at] + (dh_given ? dh_given[at] : real(0));
  da[first] = d * (1 - h[at] * h[at]);  //                 2    da = dh ⊙ tanh'(a)
}

extern "C" __global__ void __launch_bounds__(256)
lstm_step(real* a, const real* u, const real* b_u, real* h, real* c, real* h_shown,
     real* c_shown, real* h_before, real* c_before, real* tanh_c, const real* drop, real* h_in,
     int n, int units) {
  ONE_UNIT_OF_ONE_ROW(4);
  real gate[4];
  for (int k = 0; k < 4; ++k) {
    const int place = first + k * units;
    const real sum = a[place] + u[place];  //              1    a = x_t W + b + h_{t-1} U
    gate[k] = k == 2 ? tanh_of(sum) : sigmoid(sum);  //    2    i, f, o = σ(a), g = tanh(a)
    a[place] = gate[k];
  }
  c_before[at] = c[at];
  h_before[at] = h[at];
  c[at] = c_shown[at] = gate[1] * c[at] + gate[0] * gate[2];  //  3    c_t = f ⊙ c_{t-1} + i ⊙ g
  tanh_c[at] = tanh_of(c[at]);  //                         4    tanh(c_t)
  h[at] = h_shown[at] = gate[3] * tanh_c[at];  //          5    h_t = o ⊙ tanh(c_t)
  if (drop) h_in[at] = h[at] * drop[at];
}

extern "C" __global__ void __launch_bounds__(256)
lstm_step_backward(real* da, real* du, const real* gates, const real* tanh_c, const real* h,
              const real* h_before, const real* c_before, const real* dh_given,
              const real* dc_given, const real* dh, real* dc, real* through, int n, int units) {
  ONE_UNIT_OF_ONE_ROW(4);
  const real i = gates[first], f = gates[first + units];
  const real g = gates[first + 2 * units], o = gates[first + 3 * units];
  const real dh_t = dh[at] + (dh_given ? dh_given[at] : real(0));
  const real dc_t = dc[at] + (dc_given ? dc_given[at] : real(0)) +
                    dh_t * o * (1 - tanh_c[at] * tanh_c[at]);  // 5 4   dc_t += dh ⊙ o ⊙ tanh'(c_t)
  da[first] = dc_t * g * i * (1 - i);  //                  3 2  da_i, da_f, da_g
  da[first + units] = dc_t * c_before[at] * f * (1 - f);
  da[first + 2 * units] = dc_t * i * (1 - g * g);
  da[first + 3 * units] = dh_t * tanh_c[at] * o * (1 - o);  //  5 2  da_o
  dc[at] = dc_t * f;  //                                   3    dc_{t-1} = dc_t ⊙ f
}

extern "C" __global__ void __launch_bounds__(256)
gru_step(real* a, const real* u, const real* b_u, real* h, real* c, real* h_shown,
     real* c_shown, real* h_before, real* c_before, real* u_h, const real* drop, real* h_in,
     int n, int units) {
  ONE_UNIT_OF_ONE_ROW(3);
  const int unit = at % units;
  real u_b[3];  //                                         1    u = h_{t-1} U + b_u
  for (int k = 0; k < 3; ++k)
    u_b[k] = u[first + k * units] + (b_u ? b_u[k * units + unit] : real(0));
  const real z = sigmoid(a[first] + u_b[0]);  //           2    z = σ(a_z + u_z), r alike
  const real r = sigmoid(a[first + units] + u_b[1]);
  const real hh = tanh_of(a[first + 2 * units] + r * u_b[2]);  // 3   hh = tanh(a_h + r ⊙ u_h)
  a[first] = z, a[first + units] = r, a[first + 2 * units] = hh;
  u_h[at] = u_b[2];
  h_before[at] = h[at];
  h[at] = h_shown[at] = z * (h[at] - hh) + hh;  //         4    h_t = z ⊙ h_{t-1} + (1-z) ⊙ hh
  if (drop) h_in[at] = h[at] * drop[at];
}

extern "C" __global__ void __launch_bounds__(256)
gru_step_backward(real* da, real* du, const real* gates, const real* u_h, const real* h,
              const real* h_before, const real* c_before, const real* dh_given,
              const real* dc_given, const real* dh, real* dc, real* through, int n, int units) {
  ONE_UNIT_OF_ONE_ROW(3);
  const real z = gates[first], r = gates[first + units], hh = gates[first + 2 * units];
  const real d = dh[at] + (dh_given ? dh_given[at] : real(0));
  const real da_h = d * (1 - z) * (1 - hh * hh);  //       4 3
  du[first] = da[first] = d * (h_before[at] - hh) * z * (1 - z);  //  4 2
  du[first + units] = da[first + units] = da_h * u_h[at] * r * (1 - r);  //  4 3 2
  da[first + 2 * units] = da_h;
  du[first + 2 * units] = da_h * r;
  through[at] = d * z;  //                                 4    dh_t ⊙ z
}
