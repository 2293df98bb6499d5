// The product of a group's rows with a block's share of the recurrent kernel, A h: A is the transposed share, which
// stays where it is for the whole sequence, in registers as far as they go, then in shared memory; what fits neither is
// read anew in every step. A policy says how a warp computes it: multiply-add, or tensor cores on one of their types.
//
// A policy's lanes hold rows m of A for one job. Forward, ForwardRow() gives m's gate and unit, and after the product
// lane 4 g + t has all four gates of unit g for kLaneRows rows of the batch, which RowOf(i, t) gives. Backward, m is a
// unit.
#ifndef LSTM_FAST_CUDA_PRODUCT_H_
#define LSTM_FAST_CUDA_PRODUCT_H_

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda/device.h"
#include "cuda/elements.h"
#include "cuda/kernels.h"
#include "cuda/layout.h"
#include "cuda/recurrence.h"

namespace lstm_fast::cuda {

struct Lane {
  int index, g, t;
};

LSTM_FAST_DEVICE Lane ThisLane() {
  const int index = Thread() % 32;
  return {index, index / 4, index % 4};
}

struct GateUnit {
  int gate, unit;
};

// The four gates of a unit for the rows of the batch that a lane finishes.
template <class Real, int kLaneRows>
struct Gates {
  Real value[4][kLaneRows];
};

// Whether there is a kernel for what is being compiled here. Several rows of half types are multiplied and added only
// where there are no tensor cores; kernels that no device runs are empty.
template <class Policy>
constexpr bool kIsCompiled =
    Policy::kTensorCores ? kHasTensorCores
                         : sizeof(typename Policy::Element) > 2 || Policy::kRows == 1 || kLacksTensorCores;

// Multiply-add: a lane computes one column of the gates for all rows.
template <class T, int kRowCount>
struct MultiplyAddPolicy {
  using Element = T;
  using Real = RealOf<T>;
  using Operand = Real;
  static constexpr bool kTensorCores = false;
  static constexpr Precision kPrecision = Precision::kExact;
  static constexpr ProductSizes kSizes = ProductSizesOf(kDTypeOf<T>, kTensorCores);
  static constexpr int kFragments = kSizes.forward_fragments;
  static constexpr int kRows = kRowCount;
  static constexpr int kLaneRows = kRows >= 4 ? kRows / 4 : 1;
  // Sums for a row by turns: one would wait for itself most of the time where there are few rows.
  static constexpr int kTurns = kRows < 4 ? kSizes.depth : 1;

  struct Sums {
    Real value[kRows][kTurns];

    LSTM_FAST_DEVICE Real Of(int row) const {
      Real sum = value[row][0];
      LSTM_FAST_UNROLL
      for (int i = 1; i < kTurns; ++i) sum += value[row][i];
      return sum;
    }
  };
  struct Terms {
    Words words[kRows];
  };

  static LSTM_FAST_DEVICE GateUnit ForwardRow(int, int m) { return {m % 4, m / 4}; }
  static LSTM_FAST_DEVICE int RowOf(int i, int t) { return kRows >= 4 ? t * kLaneRows + i : t; }
  static LSTM_FAST_DEVICE Operand ToOperand(Real value) { return value; }

  // The lane's words of a fragment whose terms begin at k; at(m, k) is an element of A.
  template <class At>
  static LSTM_FAST_DEVICE Words Fragment(const At& at, const Lane& lane, int k) {
    Words words;
    Real values[kSizes.depth];
    LSTM_FAST_UNROLL
    for (int i = 0; i < kSizes.depth; ++i) values[i] = at(lane.index, k + i);
    memcpy(&words, values, sizeof words);
    return words;
  }

  static LSTM_FAST_DEVICE Terms Load(Shared<const Operand> operand, int stride, int k, const Lane&) {
    Terms terms;
    LSTM_FAST_UNROLL
    for (int r = 0; r < kRows; ++r) terms.words[r] = *Cast<const Words>(operand + (r * stride + k));
    return terms;
  }

  static LSTM_FAST_DEVICE void Accumulate(Sums& sums, const Words& fragment, const Terms& terms) {
    Real a[kSizes.depth];
    memcpy(a, &fragment, sizeof a);
    LSTM_FAST_UNROLL
    for (int r = 0; r < kRows; ++r) {
      Real b[kSizes.depth];
      memcpy(b, &terms.words[r], sizeof b);
      LSTM_FAST_UNROLL
      for (int i = 0; i < kSizes.depth; ++i) {
        sums.value[r][i % kTurns] = MultiplyAdd(a[i], b[i], sums.value[r][i % kTurns]);
      }
    }
  }

  // With recurrent dropout every gate has operands of its own, `gate_stride` elements apart; lane t computes gate t.
  static LSTM_FAST_DEVICE Shared<const Operand> OfGate(Shared<const Operand> operand, int gate_stride, int,
                                                       const Lane& lane) {
    return operand + lane.t * gate_stride;
  }

  // Lanes of the same g exchange what they computed: each had one gate of all rows and gets all gates of its rows.
  static LSTM_FAST_DEVICE Gates<Real, kLaneRows> Finish(const Sums (&sums)[1][2], const Lane& lane, bool) {
    Real own[kRows];
    LSTM_FAST_UNROLL
    for (int r = 0; r < kRows; ++r) own[r] = sums[0][0].Of(r);
    Gates<Real, kLaneRows> gates;
    LSTM_FAST_UNROLL
    for (int distance = 0; distance < 4; ++distance) {
      const int partner = lane.t ^ distance;
      LSTM_FAST_UNROLL
      for (int i = 0; i < kLaneRows; ++i) {
        Real mine = own[0];
        LSTM_FAST_UNROLL
        for (int t = 0; t < 4; ++t) {
          const int row = RowOf(i, t);
          if (row < kRows && t == partner) mine = own[row];
        }
        const Real theirs = distance == 0 ? mine : ShuffleXor(mine, distance);
        LSTM_FAST_UNROLL
        for (int gate = 0; gate < 4; ++gate) {
          if (gate == partner) gates.value[gate][i] = theirs;
        }
      }
    }
    return gates;
  }

  // Calls put(m, row, sum) for every sum of a backward job that the lane has.
  template <class Put>
  static LSTM_FAST_DEVICE void ForEach(const Sums& sums, const Lane& lane, const Put& put) {
    LSTM_FAST_UNROLL
    for (int r = 0; r < kRows; ++r) put(lane.index, r, sums.Of(r));
  }
};

// Tensor cores. A [16, K] holds the recurrent kernel and B [K, 8] the rows of the batch, which may be few, so that
// nothing is computed for more than 7 rows that are not there. A warp takes kOctets times 8 rows at once.
template <class Self, class T, int kOctets>
struct TensorPolicy {
  using Element = T;
  using Real = float;
  using Operand = T;
  static constexpr bool kTensorCores = true;
  static constexpr ProductSizes kSizes = ProductSizesOf(kDTypeOf<T>, kTensorCores);
  static constexpr int kFragments = kSizes.forward_fragments;
  static constexpr int kRows = 8 * kOctets;
  static constexpr int kLaneRows = 2 * kOctets;

  struct Sums {
    float value[kOctets][4];
  };
  struct Terms {
    uint32_t words[kOctets][2];
  };

  static LSTM_FAST_DEVICE GateUnit ForwardRow(int fragment, int m) { return {2 * fragment + m / 8, m % 8}; }
  static LSTM_FAST_DEVICE int RowOf(int i, int t) { return i / 2 * 8 + 2 * t + i % 2; }

  static LSTM_FAST_DEVICE Terms Load(Shared<const Operand> operand, int stride, int k, const Lane& lane) {
    Terms terms;
    LSTM_FAST_UNROLL
    for (int octet = 0; octet < kOctets; ++octet) {
      Self::LoadOctet(operand + ((octet * 8 + lane.g) * stride + k), lane, terms.words[octet]);
    }
    return terms;
  }

  static LSTM_FAST_DEVICE void Accumulate(Sums& sums, const Words& fragment, const Terms& terms) {
    LSTM_FAST_UNROLL
    for (int octet = 0; octet < kOctets; ++octet) {
      Self::MultiplyOctet(sums.value[octet], fragment.word, terms.words[octet]);
    }
  }

  static LSTM_FAST_DEVICE Shared<const Operand> OfGate(Shared<const Operand> operand, int gate_stride, int gate,
                                                       const Lane&) {
    return operand + gate * gate_stride;
  }

  // Fragment i holds gates 2 i, in rows 0 to 7, and 2 i + 1; with recurrent dropout each is good in sums of its own.
  static LSTM_FAST_DEVICE Gates<float, kLaneRows> Finish(const Sums (&sums)[2][2], const Lane&, bool dropout) {
    Gates<float, kLaneRows> gates;
    LSTM_FAST_UNROLL
    for (int gate = 0; gate < 4; ++gate) {
      LSTM_FAST_UNROLL
      for (int i = 0; i < kLaneRows; ++i) {
        const Sums& of_gate = sums[gate / 2][dropout ? gate % 2 : 0];
        gates.value[gate][i] = of_gate.value[i / 2][gate % 2 * 2 + i % 2];
      }
    }
    return gates;
  }

  template <class Put>
  static LSTM_FAST_DEVICE void ForEach(const Sums& sums, const Lane& lane, const Put& put) {
    LSTM_FAST_UNROLL
    for (int octet = 0; octet < kOctets; ++octet) {
      LSTM_FAST_UNROLL
      for (int i = 0; i < 4; ++i) put(lane.g + 8 * (i / 2), octet * 8 + 2 * lane.t + i % 2, sums.value[octet][i]);
    }
  }
};

// float32 operands, of which the tensor cores see 10 bits of mantissa; or, with kTf32x3, which are the sums of two such
// numbers. The product of the two small ones, below 2^-22 of the whole, is left out.
template <int kOctets, Precision kProducts>
struct Tf32Policy : TensorPolicy<Tf32Policy<kOctets, kProducts>, float, kOctets> {
  static constexpr Precision kPrecision = kProducts;
  static constexpr bool kThreeProducts = kPrecision == Precision::kTf32x3;

  static LSTM_FAST_DEVICE float ToOperand(float value) { return kThreeProducts ? value : FloatOf(RoundToTf32(value)); }

  template <class At>
  static LSTM_FAST_DEVICE Words Fragment(const At& at, const Lane& lane, int k) {
    Words words;
    LSTM_FAST_UNROLL
    for (int i = 0; i < 4; ++i) {
      words.word[i] = BitsOf(ToOperand(at(lane.g + i % 2 * 8, k + lane.t + i / 2 * 4)));
    }
    return words;
  }

  static LSTM_FAST_DEVICE void LoadOctet(Shared<const float> row, const Lane& lane, uint32_t (&words)[2]) {
    words[0] = BitsOf(float{row[lane.t]});
    words[1] = BitsOf(float{row[lane.t + 4]});
  }

  static LSTM_FAST_DEVICE void MultiplyOctet(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    if constexpr (kThreeProducts) {
      uint32_t a_large[4], a_small[4], b_large[2], b_small[2];
      Decompose(a, a_large, a_small);
      Decompose(b, b_large, b_small);
      MultiplyTf32(sums, a_small, b_large);
      MultiplyTf32(sums, a_large, b_small);
      MultiplyTf32(sums, a_large, b_large);
    } else {
      MultiplyTf32(sums, a, b);
    }
  }

 private:
  template <int kCount>
  static LSTM_FAST_DEVICE void Decompose(const uint32_t (&whole)[kCount], uint32_t (&large)[kCount],
                                         uint32_t (&small)[kCount]) {
    LSTM_FAST_UNROLL
    for (int i = 0; i < kCount; ++i) {
      large[i] = RoundToTf32(FloatOf(whole[i]));
      small[i] = RoundToTf32(FloatOf(whole[i]) - FloatOf(large[i]));
    }
  }
};

// float16 or bfloat16.
template <class T, int kOctets>
struct HalfPolicy : TensorPolicy<HalfPolicy<T, kOctets>, T, kOctets> {
  static constexpr Precision kPrecision = Precision::kExact;

  static LSTM_FAST_DEVICE T ToOperand(float value) { return Rounded<T>(value); }

  template <class At>
  static LSTM_FAST_DEVICE Words Fragment(const At& at, const Lane& lane, int k) {
    Words words;
    LSTM_FAST_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int m = lane.g + i % 2 * 8;
      const int first = k + 2 * lane.t + i / 2 * 8;
      const uint32_t low = Rounded<T>(at(m, first)).bits, high = Rounded<T>(at(m, first + 1)).bits;
      words.word[i] = low | high << 16;
    }
    return words;
  }

  static LSTM_FAST_DEVICE void LoadOctet(Shared<const T> row, const Lane& lane, uint32_t (&words)[2]) {
    const Shared<const uint32_t> pairs = Cast<const uint32_t>(row);
    words[0] = pairs[lane.t];
    words[1] = pairs[lane.t + 4];
  }

  static LSTM_FAST_DEVICE void MultiplyOctet(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    if constexpr (std::is_same_v<T, Half>) {
      MultiplyHalf(sums, a, b);
    } else {
      MultiplyBFloat16(sums, a, b);
    }
  }
};

// Where the fragments of a warp's jobs are. In the order of jobs, the first kRegisters of the first job are in
// registers, the next in shared memory, and the rest is read from the recurrent kernel itself.
template <class Policy, int kRegisters>
struct Fragments {
  Words held[kRegisters];
  Shared<Words> shared;  // [shared_count][32]
  int shared_count;
  int job_fragments;  // of a job

  LSTM_FAST_DEVICE int InRegisters() const { return kRegisters < job_fragments ? kRegisters : job_fragments; }

  // Loads what stays on chip of so many jobs; read(job, fragment) is the lane's words of a fragment.
  template <class Read>
  LSTM_FAST_DEVICE void Fill(const Read& read, int jobs, const Lane& lane) {
    Words loaded[kRegisters];  // not in registers: unrolled, this loop alone would take the compiler most of its time
    LSTM_FAST_NO_UNROLL
    for (int f = 0; f < kRegisters; ++f) loaded[f] = jobs > 0 && f < job_fragments ? read(0, f) : Words{};
    LSTM_FAST_UNROLL
    for (int f = 0; f < kRegisters; ++f) held[f] = loaded[f];
    const int in_registers = InRegisters();
    for (int i = 0; i < shared_count; ++i) {
      const int f = i + in_registers;
      if (f < jobs * job_fragments) shared[i * 32 + lane.index] = read(f / job_fragments, f % job_fragments);
    }
  }

  // Of a job's fragments, the first that is not in shared memory, and the place of fragment 0 if it were.
  LSTM_FAST_DEVICE int SharedUntil(int job) const {
    const int until = shared_count - job * job_fragments + InRegisters();
    return until < job_fragments ? until : job_fragments;
  }
  LSTM_FAST_DEVICE Shared<const Words> SharedOf(int job, const Lane& lane) const {
    return shared + ((job * job_fragments - InRegisters()) * 32 + lane.index);
  }
};

// Adds a job's product to the sums: of kFragments fragments for each slice, each with the one operand, or, kDropout,
// with an operand for each of its two gates.
template <int kFragments, bool kDropout, class Policy, int kRegisters, class Read>
LSTM_FAST_DEVICE void MultiplyJob(const Fragments<Policy, kRegisters>& fragments, const Read& read, int job, int slices,
                                  Shared<const typename Policy::Operand> operand, int stride, int gate_stride,
                                  const Lane& lane, typename Policy::Sums (&sums)[kFragments][2]) {
  const auto accumulate = [&](int slice, const Words(&words)[kFragments]) {
    const int k = slice * Policy::kSizes.depth;
    if constexpr (kDropout) {
      LSTM_FAST_UNROLL
      for (int i = 0; i < kFragments; ++i) {
        LSTM_FAST_UNROLL
        for (int half = 0; half < kFragments; ++half) {
          const auto of_gate = Policy::OfGate(operand, gate_stride, 2 * i + half, lane);
          Policy::Accumulate(sums[i][half], words[i], Policy::Load(of_gate, stride, k, lane));
        }
      }
    } else {
      const typename Policy::Terms terms = Policy::Load(operand, stride, k, lane);
      LSTM_FAST_UNROLL
      for (int i = 0; i < kFragments; ++i) Policy::Accumulate(sums[i][0], words[i], terms);
    }
  };
  constexpr int kSlicesHeld = kRegisters / kFragments, kSlicesAtOnce = kFragmentsAtOnce / kFragments;
  int slice = 0;
  if (job == 0) {  // with few branches: fragments that a short sum does not have are zero, whatever they multiply
    LSTM_FAST_UNROLL
    for (int i = 0; i < kSlicesHeld; ++i) {
      if (i % kSlicesAtOnce == 0 && i >= slices) break;
      Words words[kFragments];
      LSTM_FAST_UNROLL
      for (int f = 0; f < kFragments; ++f) words[f] = fragments.held[i * kFragments + f];
      accumulate(i, words);
    }
    slice = kSlicesHeld;
  }
  const Shared<const Words> shared = fragments.SharedOf(job, lane);
  const int shared_until = fragments.SharedUntil(job) / kFragments;
  for (; slice < shared_until; ++slice) {
    Words words[kFragments];
    LSTM_FAST_UNROLL
    for (int f = 0; f < kFragments; ++f) words[f] = shared[(slice * kFragments + f) * 32];
    accumulate(slice, words);
  }
  for (; slice < slices; ++slice) {
    Words words[kFragments];
    LSTM_FAST_UNROLL
    for (int f = 0; f < kFragments; ++f) words[f] = read(job, slice * kFragments + f);
    accumulate(slice, words);
  }
}

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_PRODUCT_H_
