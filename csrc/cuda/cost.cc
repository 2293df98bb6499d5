#include "cuda/cost.h"

#include <algorithm>
#include <cmath>

#include "cuda/layout.h"
#include "lstm_fast/lstm.h"

namespace lstm_fast::cuda {
namespace {

// Microseconds of a timestep, as a sum of what takes its time one after the other. The numbers are a
// fit, of non-negative least squares, to what `benchmarks.tune` measured on an H100 of all cuts of nine problems in
// three precisions. Of its choices among these cuts the worst takes 1.16 times as long as the best, all on average 1.01
// times.
struct Costs {
  double exchange[3];  // by block, cluster, grid: of a timestep, whatever there is to do
  double products;     // of a fragment for one row, by all warps of a multiprocessor
  double shared;       // a fragment in shared memory, by one warp,
  double streamed;     // or in global memory
  double cell;         // a unit in a row, by one thread,
  double anew;         // and more where the thread does not keep it from timestep to timestep
  double narrow;       // kernels for blocks of 512 threads, whose registers do not suffice: a job in a round,
  double narrow_step;  // and a timestep
  // Forward: 16 bytes that a thread receives through global memory, a cell that it sends to a block. Backward: a part
  // of a sum that a thread adds, by block, cluster, grid; the rows that a warp passes on of a job, four at once.
  double receive, send;
  double add[3], put;
  double traffic;  // a kilobyte that a block gets through global memory
};
// By pass, forward and backward; for multiply-add and for tensor cores.
constexpr Costs kCosts[2][2] = {
    {{{0.318, 0.788, 1.36}, 0.00137, 0.0103, 0.196, 0.548, 0.312, 0, 0, 0, 0.0117, {0, 0, 0}, 0, 0.0159},
     {{0.721, 1.32, 1.61}, 0.000951, 0.0116, 0.321, 0.567, 0.641, 2.62, 0, 0.0575, 0.0186, {0, 0, 0}, 0, 0.00586}},
    {{{0.156, 0.604, 1.08}, 0.00206, 0.0156, 0.822, 0.79, 1.21, 0.291, 2.07, 0, 0, {0, 0.0005, 0.0175}, 0.0539, 0},
     {{0, 1.07, 1.49},
      0.00151,
      0.0213,
      0.531,
      0.797,
      1.1,
      0.367,
      0.762,
      0,
      0,
      {0.113, 0.0109, 0.0015},
      0.0761,
      0.0751}}};

// Of the kernels whose blocks have everything of a row (single.h), microseconds of a timestep. No device has measured
// them yet. `wait` is what kernels of one row took on an H100, by how many instructions of a warp a timestep now has
// (for sm_90, with 64 and 128 units: 166 and 269 forward, 212 and 294 backward; it had 466 and 570), and with two
// blocks what a cluster's exchange takes more than a block's in the table above. The others are instructions, one a
// cycle on each of a multiprocessor's four schedulers, at 1.7 GHz.
struct SingleCosts {
  double wait[2];  // of a timestep for the one before, by blocks
  double warp;     // of the multiprocessor,
  double product;  // and more for each unit of the sum
};
constexpr SingleCosts kSingleCosts[2] = {{{0.44, 1.19}, 0.015, 0.00015}, {{0.58, 1.25}, 0.022, 0.00015}};

// Blocks of all groups that a multiprocessor has at once.
double BlocksOfMultiprocessor(const Cut& cut, const Device& device) {
  return static_cast<double>(CeilDivide(int64_t{cut.groups} * cut.blocks, device.multiprocessors));
}

double SingleMicroseconds(Pass pass, const Variant& variant, const Cut& cut, const Device& device) {
  const SingleCosts& costs = kSingleCosts[static_cast<int>(pass)];
  return std::max(costs.wait[cut.blocks - 1],
                  BlocksOfMultiprocessor(cut, device) * cut.warps * (costs.warp + costs.product * variant.most_units));
}

}  // namespace

double StepMicroseconds(const Problem& problem, Pass pass, const Variant& variant, const Cut& cut,
                        int64_t fragments_streamed, const Device& device) {
  if (variant.row_blocks > 0) return SingleMicroseconds(pass, variant, cut, device);
  const Costs& costs = kCosts[static_cast<int>(pass)][variant.tensor_cores];
  const int exchange = static_cast<int>(cut.exchange), threads = cut.warps * 32, cells = cut.rows * cut.units;
  const bool grid = cut.exchange == Exchange::kGrid, cluster = cut.exchange == Exchange::kCluster;
  const bool backward = pass == Pass::kBackward, narrow = variant.most_threads > 256;
  // float64 takes twice as long, a product of three parts three times; tensor cores take four rows in the time of one.
  const double size = problem.dtype == DType::kFloat64                                  ? 2
                      : variant.tensor_cores && variant.precision == Precision::kTf32x3 ? 3
                                                                                        : 1;
  const double rows = size * (variant.tensor_cores ? variant.rows / 4.0 : variant.rows);
  const WarpWork work = WorkOfWarp(problem, variant, cut, pass);
  const auto jobs = static_cast<double>(work.jobs), of_job = static_cast<double>(work.fragments_of_job);
  // Of its first job a warp multiplies some more fragments, if it has registers for them.
  const int64_t rounded = RoundUp(work.fragments_of_job, kFragmentsAtOnce);
  const double multiplied =
      std::max<double>(static_cast<double>(std::min<int64_t>(variant.registers, rounded)), of_job) +
      (jobs - 1) * of_job;
  const double rounds = cut.rows / variant.rows;
  const double blocks = BlocksOfMultiprocessor(cut, device);
  double time =
      costs.exchange[exchange] + blocks * rounds * cut.warps * multiplied * rows * costs.products +
      rounds * (cut.fragments_shared * costs.shared + static_cast<double>(fragments_streamed) * costs.streamed);
  // Cells of a thread: of all threads of the block, or, of a warp, of the lanes that finish a job.
  const bool spread = variant.split || backward;
  const double of_thread =
      spread ? static_cast<double>(CeilDivide(cells, threads)) : rounds * std::max(1, variant.rows / 4) * jobs;
  const double keeps = spread ? (narrow ? 1 : 2) : (rounds * jobs == 1 ? of_thread : 0);
  const double real = std::min(1.0, static_cast<double>(problem.batch) / cut.rows);  // others take no time
  time += real * (of_thread * costs.cell + std::max(0.0, of_thread - keeps) * costs.anew);
  if (narrow) time += rounds * (backward ? jobs : 1) * costs.narrow + costs.narrow_step;
  if (backward) {
    const double sources = double(cut.blocks) * cut.splits;
    time += of_thread * sources * costs.add[exchange] + rounds * jobs * std::max(1.0, variant.rows / 4.0) * costs.put;
    if (grid) time += blocks * 4e-3 * cells * sources * costs.traffic;
  } else {
    const int operand_bytes = ProductSizesOf(problem.dtype, variant.tensor_cores).operand_bytes;
    const double received = cut.rows * double(problem.units) * operand_bytes;
    if (grid) time += std::ceil(received / 16 / threads) * costs.receive + blocks * 1e-3 * received * costs.traffic;
    if (cluster) time += of_thread * cut.blocks * costs.send;
  }
  return time;
}

}  // namespace lstm_fast::cuda
