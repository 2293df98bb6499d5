#include "reference.h"

#include <cmath>
#include <functional>

namespace lstm_fast::test {
namespace {

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

struct Step {
  int64_t time;
  Values gates;                  // [4H]: i, f, g, o
  Values h_before, c_before, c;  // [H]
};

// One row in one direction.
class Row {
 public:
  Row(const Case& c, int n, int64_t row) : c_(c), p_(c.problem), d_(c.direction[n]), n_(n), row_(row) {
    reversed_ = p_.directions == 2 ? n == 1 : p_.go_backwards;
  }

  void Forward(Solution& s) {
    const int64_t units = p_.units;
    Values h(At(units)), cell(At(units)), shown(At(units));
    for (int64_t j = 0; j < units; ++j) {
      if (d_.h0) h[At(j)] = (*d_.h0)[At(row_ * units + j)];
      if (d_.c0) cell[At(j)] = (*d_.c0)[At(row_ * units + j)];
    }
    for (int64_t k = 0; k < p_.time; ++k) {
      const int64_t t = reversed_ ? p_.time - 1 - k : k;
      if (c_.Real(row_, t)) {
        Run(t, h, cell);
        shown = h;
        source_.push_back(static_cast<int64_t>(steps_.size()) - 1);
      } else {
        if (p_.zero_output_for_mask) shown.assign(At(units), 0);
        source_.push_back(p_.zero_output_for_mask || source_.empty() ? -1 : source_.back());
      }
      if (p_.return_sequences || k == p_.time - 1) {
        for (int64_t j = 0; j < units; ++j) s.y[OutputOf(k, j)] = shown[At(j)];
      }
    }
    for (int64_t j = 0; j < units; ++j) {
      s.h_n[n_][At(row_ * units + j)] = h[At(j)];
      s.c_n[n_][At(row_ * units + j)] = cell[At(j)];
    }
  }

  void Backward(Solution& s) {
    const int64_t units = p_.units;
    Values dy(steps_.size() * At(units));
    for (int64_t k = p_.return_sequences ? 0 : p_.time - 1; c_.dy && k >= 0 && k < p_.time; ++k) {
      if (source_[At(k)] < 0) continue;
      for (int64_t j = 0; j < units; ++j) dy[At(source_[At(k)] * units + j)] += (*c_.dy)[OutputOf(k, j)];
    }
    Values dh(At(units)), dc(At(units));
    for (int64_t j = 0; j < units; ++j) {
      if (d_.dh_n) dh[At(j)] = (*d_.dh_n)[At(row_ * units + j)];
      if (d_.dc_n) dc[At(j)] = (*d_.dc_n)[At(row_ * units + j)];
    }
    for (int64_t k = static_cast<int64_t>(steps_.size()) - 1; k >= 0; --k) {
      const Step& step = steps_[At(k)];
      Values dz(At(4 * units));
      for (int64_t j = 0; j < units; ++j) {
        const double in = step.gates[At(j)], forget = step.gates[At(units + j)];
        const double candidate = step.gates[At(2 * units + j)], out = step.gates[At(3 * units + j)];
        const double tanh_c = std::tanh(step.c[At(j)]), own = dh[At(j)] + dy[At(k * units + j)];
        const double d_cell = dc[At(j)] + own * out * (1 - tanh_c * tanh_c);
        dz[At(j)] = d_cell * candidate * in * (1 - in);
        dz[At(units + j)] = d_cell * step.c_before[At(j)] * forget * (1 - forget);
        dz[At(2 * units + j)] = d_cell * in * (1 - candidate * candidate);
        dz[At(3 * units + j)] = own * tanh_c * out * (1 - out);
        dc[At(j)] = d_cell * forget;
      }
      dh.assign(At(units), 0);
      for (int64_t gate = 0; gate < 4 * units; ++gate) {
        const double d = dz[At(gate)];
        s.dbias[n_][At(gate)] += d;
        for (int64_t i = 0; i < units; ++i) {
          const double multiplier = Multiplier(d_.recurrent_dropout, gate / units, i, units);
          s.drecurrent_kernel[n_][At(i * 4 * units + gate)] += multiplier * step.h_before[At(i)] * d;
          dh[At(i)] += multiplier * d_.recurrent_kernel[At(i * 4 * units + gate)] * d;
        }
        if (p_.projected) {
          s.dx[XOf(step.time, n_ * 4 * units + gate)] = d;
          continue;
        }
        for (int64_t i = 0; i < p_.input; ++i) {
          const double multiplier = Multiplier(d_.input_dropout, gate / units, i, p_.input);
          s.dkernel[n_][At(i * 4 * units + gate)] += multiplier * c_.x[XOf(step.time, i)] * d;
          s.dx[XOf(step.time, i)] += multiplier * (*d_.kernel)[At(i * 4 * units + gate)] * d;
        }
      }
    }
    for (int64_t j = 0; j < units; ++j) {
      s.dh0[n_][At(row_ * units + j)] = dh[At(j)];
      s.dc0[n_][At(row_ * units + j)] = dc[At(j)];
    }
  }

 private:
  static size_t At(int64_t i) { return static_cast<size_t>(i); }

  // Where an output lies: two directions have the order of the input, one has that in which it runs.
  size_t OutputOf(int64_t k, int64_t unit) const {
    const int64_t time = p_.return_sequences ? (p_.directions == 2 && reversed_ ? p_.time - 1 - k : k) : 0;
    const int64_t times = p_.return_sequences ? p_.time : 1;
    return At(((row_ * times + time) * p_.directions + n_) * p_.units + unit);
  }

  size_t XOf(int64_t time, int64_t feature) const { return At((row_ * p_.time + time) * p_.input + feature); }

  double Multiplier(const std::optional<Values>& dropout, int64_t gate, int64_t i, int64_t count) const {
    return dropout ? (*dropout)[At((gate * p_.batch + row_) * count + i)] : 1;
  }

  void Run(int64_t t, Values& h, Values& cell) {
    const int64_t units = p_.units;
    Step step{t, Values(At(4 * units)), h, cell, Values(At(units))};
    for (int64_t gate = 0; gate < 4 * units; ++gate) {
      double z = d_.bias ? (*d_.bias)[At(gate)] : 0;
      if (p_.projected) z += c_.x[XOf(t, n_ * 4 * units + gate)];
      for (int64_t i = 0; i < p_.input && !p_.projected; ++i) {
        z += Multiplier(d_.input_dropout, gate / units, i, p_.input) * c_.x[XOf(t, i)] *
             (*d_.kernel)[At(i * 4 * units + gate)];
      }
      for (int64_t i = 0; i < units; ++i) {
        z += Multiplier(d_.recurrent_dropout, gate / units, i, units) * h[At(i)] *
             d_.recurrent_kernel[At(i * 4 * units + gate)];
      }
      step.gates[At(gate)] = gate / units == 2 ? std::tanh(z) : Sigmoid(z);
    }
    for (int64_t j = 0; j < units; ++j) {
      step.c[At(j)] = step.gates[At(units + j)] * cell[At(j)] + step.gates[At(j)] * step.gates[At(2 * units + j)];
      h[At(j)] = step.gates[At(3 * units + j)] * std::tanh(step.c[At(j)]);
    }
    cell = step.c;
    steps_.push_back(std::move(step));
  }

  const Case& c_;
  const Problem& p_;
  const DirectionValues& d_;
  const int n_;
  const int64_t row_;
  bool reversed_ = false;
  std::vector<Step> steps_;      // real ones, in the order in which they run
  std::vector<int64_t> source_;  // for each output, in that order: the step that it shows, -1 for zero
};

}  // namespace

Solution Solve(const Case& c) {
  const Problem& p = c.problem;
  const auto zeros = [](int64_t count) { return Values(static_cast<size_t>(count)); };
  Solution s;
  s.y = zeros(p.batch * (p.return_sequences ? p.time : 1) * p.directions * p.units);
  s.dx = zeros(p.batch * p.time * p.input);
  for (int n = 0; n < p.directions; ++n) {
    for (Values* states : {&s.h_n[n], &s.c_n[n], &s.dh0[n], &s.dc0[n]}) *states = zeros(p.batch * p.units);
    s.dkernel[n] = zeros(p.projected ? 0 : p.input * 4 * p.units);
    s.drecurrent_kernel[n] = zeros(p.units * 4 * p.units);
    s.dbias[n] = zeros(4 * p.units);
    for (int64_t b = 0; b < p.batch; ++b) {
      Row row(c, n, b);
      row.Forward(s);
      row.Backward(s);
    }
  }
  return s;
}

}  // namespace lstm_fast::test
