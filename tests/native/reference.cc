#include "reference.h"

#include <cmath>

namespace lstm_fast::testing {
namespace {

using Numbers = std::vector<double>;

size_t Index(int64_t i) { return static_cast<size_t>(i); }

double Sigmoid(double z) { return z >= 0 ? 1 / (1 + std::exp(-z)) : std::exp(z) / (1 + std::exp(z)); }

// All elements, or as many copies of `otherwise` where there is no array.
Numbers Values(const Case& problem, const Guarded& array, int64_t count, double otherwise) {
  Numbers values(Index(count), otherwise);
  for (int64_t i = 0; i < count && array.present(); ++i)
    values[Index(i)] = Decode(problem.options.dtype, array.data(), i);
  return values;
}

// A real timestep of one row, as the backward pass needs it.
struct Step {
  int64_t t;              // in input order
  Numbers x, h_before;    // [4, D] and [4, H], after dropout
  Numbers c_before;       // [H]
  Numbers i, f, g, o, c;  // [H]
};

// One direction of a problem; B, T, D, H as in the contract.
class Direction {
 public:
  Direction(const Case& problem, int n)
      : problem_(problem),
        options_(problem.options),
        n_(n),
        B(options_.batch),
        T(options_.time),
        D(options_.projected ? 0 : problem.features),
        H(options_.units),
        backward_in_time_(options_.directions == 2 ? n == 1 : options_.go_backwards) {
    const DirectionArrays& a = problem.direction[n];
    kernel_ = Values(problem, a.kernel, D * 4 * H, 0.0);
    recurrent_kernel_ = Values(problem, a.recurrent_kernel, H * 4 * H, 0.0);
    bias_ = Values(problem, a.bias, 4 * H, 0.0);
    h0_ = Values(problem, a.h0, B * H, 0.0);
    c0_ = Values(problem, a.c0, B * H, 0.0);
    input_dropout_ = Values(problem, a.input_dropout, 4 * B * D, 1.0);
    recurrent_dropout_ = Values(problem, a.recurrent_dropout, 4 * B * H, 1.0);
    dh_n_ = Values(problem, a.dh_n, B * H, 0.0);
    dc_n_ = Values(problem, a.dc_n, B * H, 0.0);
  }

  void Solve(const Numbers& dy, Solution& solution) const {
    Solution::Direction& out = solution.direction[n_];
    out.dkernel.resize(kernel_.size());
    out.drecurrent_kernel.resize(recurrent_kernel_.size());
    out.dbias.resize(Index(4 * H));
    out.dz_terms.resize(Index(B * T * 4 * H));
    out.h_n = h0_;
    out.c_n = c0_;
    out.dh0 = dh_n_;
    out.dc0 = dc_n_;
    for (int64_t b = 0; b < B; ++b) {
      const std::vector<Step> steps = Forward(b, solution.y, &out.h_n[Index(b * H)], &out.c_n[Index(b * H)]);
      Backward(b, steps, dy, solution, &out.dh0[Index(b * H)], &out.dc0[Index(b * H)]);
    }
  }

 private:
  // The input time of a position in processing order.
  int64_t TimeOf(int64_t position) const { return backward_in_time_ ? T - 1 - position : position; }

  // Where this direction's units of an output begin in y, for a position in processing order.
  int64_t OutputOffset(int64_t b, int64_t position) const {
    const bool in_input_order = options_.directions == 2;
    const int64_t t = in_input_order ? TimeOf(position) : position;
    const int64_t width = options_.directions * H;
    return options_.return_sequences ? (b * T + t) * width + n_ * H : b * width + n_ * H;
  }

  bool HasOutput(int64_t position) const { return options_.return_sequences || position == T - 1; }

  // z, with the operands that gave it.
  Numbers PreActivations(int64_t b, int64_t t, const double* h, Step& step) const {
    Numbers z = bias_;
    for (int64_t j = 0; j < 4 * H && options_.projected; ++j) {
      z[Index(j)] += Decode(options_.dtype, problem_.x.data(), problem_.XOffset(b, t) + n_ * 4 * H + j);
    }
    for (int64_t gate = 0; gate < 4; ++gate) {
      for (int64_t d = 0; d < D; ++d) {
        const double x = Decode(options_.dtype, problem_.x.data(), problem_.XOffset(b, t) + d) *
                         input_dropout_[Index((gate * B + b) * D + d)];
        step.x.push_back(x);
        for (int64_t j = 0; j < H; ++j) z[Index(gate * H + j)] += x * kernel_[Index((d * 4 + gate) * H + j)];
      }
      for (int64_t k = 0; k < H; ++k) {
        const double state = h[k] * recurrent_dropout_[Index((gate * B + b) * H + k)];
        step.h_before.push_back(state);
        for (int64_t j = 0; j < H; ++j) {
          z[Index(gate * H + j)] += state * recurrent_kernel_[Index((k * 4 + gate) * H + j)];
        }
      }
    }
    return z;
  }

  // Runs one row from the state in h and c, which it leaves at the last.
  std::vector<Step> Forward(int64_t b, Numbers& y, double* h, double* c) const {
    std::vector<Step> steps;
    Numbers output(Index(H));  // zero before the first real timestep, whatever h0 is
    for (int64_t position = 0; position < T; ++position) {
      const int64_t t = TimeOf(position);
      if (problem_.real(b, t)) {
        Step step{};
        step.t = t;
        step.c_before.assign(c, c + H);
        const Numbers z = PreActivations(b, t, h, step);
        for (int64_t j = 0; j < H; ++j) {
          step.i.push_back(Sigmoid(z[Index(j)]));
          step.f.push_back(Sigmoid(z[Index(H + j)]));
          step.g.push_back(std::tanh(z[Index(2 * H + j)]));
          step.o.push_back(Sigmoid(z[Index(3 * H + j)]));
          c[j] = step.f.back() * c[j] + step.i.back() * step.g.back();
          h[j] = step.o.back() * std::tanh(c[j]);
        }
        step.c.assign(c, c + H);
        output.assign(h, h + H);
        steps.push_back(step);
      } else if (options_.zero_output_for_mask) {
        output.assign(Index(H), 0.0);
      }
      for (int64_t j = 0; j < H && HasOutput(position); ++j) y[Index(OutputOffset(b, position) + j)] = output[Index(j)];
    }
    return steps;
  }

  // Takes one row back; dh and dc are those of its last state, and become those of its first.
  void Backward(int64_t b, const std::vector<Step>& steps, const Numbers& dy, Solution& solution, double* dh,
                double* dc) const {
    auto step = steps.rbegin();
    Numbers dc_terms;  // magnitudes of what dc sums
    for (int64_t j = 0; j < H; ++j) dc_terms.push_back(std::fabs(dc[j]));
    Numbers repeated(Index(H));  // gradient of masked outputs, which repeat that of the real timestep before them
    for (int64_t position = T - 1; position >= 0; --position) {
      const bool real = step != steps.rend() && step->t == TimeOf(position);
      if (!real && options_.zero_output_for_mask) continue;
      for (int64_t j = 0; j < H && HasOutput(position) && !dy.empty(); ++j) {
        repeated[Index(j)] += dy[Index(OutputOffset(b, position) + j)];
      }
      if (!real) continue;
      for (int64_t j = 0; j < H; ++j) dh[j] += repeated[Index(j)];
      repeated.assign(Index(H), 0.0);
      StepBack(b, *step, solution, dh, dc, dc_terms);
      ++step;
    }
  }

  void StepBack(int64_t b, const Step& step, Solution& solution, double* dh, double* dc, Numbers& dc_terms) const {
    Solution::Direction& out = solution.direction[n_];
    Numbers dz_here(Index(4 * H));
    double *dz = dz_here.data(), *terms = &out.dz_terms[Index((b * T + step.t) * 4 * H)];
    for (int64_t j = 0; j < H; ++j) {
      const double i = step.i[Index(j)], f = step.f[Index(j)], g = step.g[Index(j)], o = step.o[Index(j)];
      const double tanh_c = std::tanh(step.c[Index(j)]);
      const double of_h = dh[j] * o * (1 - tanh_c * tanh_c), dc_here = dc[j] + of_h;
      const double slope[3] = {g * i * (1 - i), step.c_before[Index(j)] * f * (1 - f), i * (1 - g * g)};
      dc_terms[Index(j)] += std::fabs(of_h);
      for (int64_t gate = 0; gate < 3; ++gate) {
        dz[gate * H + j] = dc_here * slope[gate];
        terms[gate * H + j] = dc_terms[Index(j)] * std::fabs(slope[gate]);
      }
      dz[3 * H + j] = dh[j] * tanh_c * o * (1 - o);
      terms[3 * H + j] = std::fabs(dz[3 * H + j]);
      dc[j] = dc_here * f;
      dc_terms[Index(j)] *= f;
      dh[j] = 0.0;
    }
    double* dx = solution.dx.data() + (b * T + step.t) * problem_.features;
    for (int64_t j = 0; j < 4 * H; ++j) {
      out.dbias[Index(j)] += dz[j];
      if (options_.projected) dx[n_ * 4 * H + j] = dz[j];
    }
    for (int64_t gate = 0; gate < 4; ++gate) {
      const double* gate_dz = dz + gate * H;
      for (int64_t d = 0; d < D; ++d) {
        const int64_t at = (d * 4 + gate) * H;
        double sum = 0.0;
        for (int64_t j = 0; j < H; ++j) {
          sum += gate_dz[j] * kernel_[Index(at + j)];
          out.dkernel[Index(at + j)] += step.x[Index(gate * D + d)] * gate_dz[j];
        }
        dx[d] += sum * input_dropout_[Index((gate * B + b) * D + d)];
      }
      for (int64_t k = 0; k < H; ++k) {
        const int64_t at = (k * 4 + gate) * H;
        double sum = 0.0;
        for (int64_t j = 0; j < H; ++j) {
          sum += gate_dz[j] * recurrent_kernel_[Index(at + j)];
          out.drecurrent_kernel[Index(at + j)] += step.h_before[Index(gate * H + k)] * gate_dz[j];
        }
        dh[k] += sum * recurrent_dropout_[Index((gate * B + b) * H + k)];
      }
    }
  }

  const Case& problem_;
  const Options& options_;
  const int n_;
  const int64_t B, T, D, H;
  const bool backward_in_time_;
  Numbers kernel_, recurrent_kernel_, bias_, h0_, c0_, input_dropout_, recurrent_dropout_, dh_n_, dc_n_;
};

}  // namespace

Solution Solve(const Case& problem) {
  const Options& o = problem.options;
  Solution solution;
  const int64_t outputs = o.batch * (o.return_sequences ? o.time : 1) * o.directions * o.units;
  solution.y.resize(Index(outputs));
  solution.dx.resize(Index(o.batch * o.time * problem.features));
  const Numbers dy = problem.dy.present() ? Values(problem, problem.dy, outputs, 0.0) : Numbers();
  for (int n = 0; n < o.directions; ++n) Direction(problem, n).Solve(dy, solution);
  return solution;
}

}  // namespace lstm_fast::testing
