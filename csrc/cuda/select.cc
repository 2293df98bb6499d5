// Selection by enumeration: every combination of kernel, exchange, blocks and rows that the device can run is given an
// estimate of its time, and the cheapest wins, the first among equals.
#include "cuda/select.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "cuda/cost.h"
#include "cuda/layout.h"
#include "lstm_fast/lstm.h"

namespace lstm_fast::cuda {
namespace {

class Selection {
 public:
  Selection(const Problem& problem, bool dropout, Pass pass, const Device& device, const ResidentQuery& resident,
            const Forced& forced)
      : problem_(problem), dropout_(dropout), pass_(pass), device_(device), resident_(resident), forced_(forced) {}

  std::optional<Choice> Best() {
    VisitCuts([this](const Variant& variant, const Cut& cut) { Consider(variant, cut); });
    return best_;
  }

  // The most that the groups of any cut exchange through global memory, whatever the batch.
  int64_t MostExchangeBytes() {
    int64_t most = 0;
    VisitCuts([&](const Variant& variant, const Cut& cut) {
      if (cut.exchange != Exchange::kGrid) return;
      if (const std::optional<Choice> choice = Complete(variant, cut)) {
        const int64_t group = ExchangeBytes(problem_, variant, choice->cut, pass_) + int64_t{sizeof(unsigned)};
        most = std::max(most, Resident(variant, choice->cut) * group);
      }
    });
    return most;
  }

 private:
  template <class Visit>
  void VisitCuts(const Visit& visit) {
    const std::vector<Variant>& variants = Variants();
    for (size_t i = 0; i < variants.size(); ++i) {
      const Variant& variant = variants[i];
      if (!Fits(variant)) continue;
      for (const Exchange exchange : {Exchange::kBlock, Exchange::kCluster, Exchange::kGrid}) {
        if (forced_.exchange && *forced_.exchange != exchange) continue;
        if (variant.row_blocks > 0 && (exchange == Exchange::kBlock) != (variant.row_blocks == 1)) continue;
        if (variant.row_blocks > 0 && exchange == Exchange::kGrid) continue;
        for (const int units : UnitsOfBlocks(variant, exchange)) {
          for (const int rows : RowsOfGroups(variant)) {
            Cut cut{};
            cut.variant = static_cast<int>(i);
            cut.exchange = exchange;
            cut.units = units;
            cut.blocks = static_cast<int>(CeilDivide(problem_.units, units));
            cut.rows = rows;
            visit(variant, cut);
          }
        }
      }
    }
  }

  // Whether the kernel computes this problem and the device runs it.
  bool Fits(const Variant& variant) const {
    const bool has_tensor_cores = device_.code >= 80;
    if (variant.dtype != problem_.dtype || variant.dropout != dropout_) return false;
    if (pass_ == Pass::kForward && !variant.forward) return false;
    if (variant.row_blocks > 0 && problem_.units > variant.most_units) return false;
    switch (problem_.dtype) {
      case DType::kFloat64:
        break;
      case DType::kFloat32:
        // Exact products serve whoever asks for less, and with few units are faster.
        if (variant.precision != Precision::kExact && !(has_tensor_cores && variant.precision == problem_.precision)) {
          return false;
        }
        break;
      case DType::kFloat16:
      case DType::kBFloat16:
        if (variant.tensor_cores != has_tensor_cores && variant.rows > 1) return false;
        break;
    }
    return !forced_.variant || *forced_.variant == variant.name;
  }

  // Numbers of units that a block may own, each of which leads to another number of blocks.
  std::vector<int> UnitsOfBlocks(const Variant& variant, Exchange exchange) const {
    // In the backward pass units of the block are terms: tensor cores take 16 of a half type at once.
    const int step = std::max(kWarpUnits, ProductSizesOf(problem_.dtype, variant.tensor_cores).depth);
    const auto units_of = [&](int64_t blocks) {
      return static_cast<int>(RoundUp(CeilDivide(problem_.units, blocks), step));
    };
    std::vector<int64_t> wanted;
    if (variant.row_blocks > 0) {
      if (forced_.blocks && *forced_.blocks != variant.row_blocks) return {};
      wanted = {variant.row_blocks};
    } else if (forced_.blocks) {
      wanted = {*forced_.blocks};
    } else if (exchange == Exchange::kBlock) {
      wanted = {1};
    } else if (exchange == Exchange::kCluster) {
      wanted = {2, 4, 8, 16};
    } else {
      const int64_t most = std::min<int64_t>(device_.multiprocessors, CeilDivide(problem_.units, step));
      for (int64_t blocks = 2; blocks < most; blocks += std::max<int64_t>(1, blocks / 8)) wanted.push_back(blocks);
      wanted.push_back(std::max<int64_t>(2, most));
    }
    std::set<int, std::greater<>> all;
    for (const int64_t blocks : wanted) {
      const int units = units_of(blocks);
      const int64_t found = CeilDivide(problem_.units, units);
      if (forced_.blocks && found != blocks) continue;
      if (exchange == Exchange::kBlock ? found == 1 : found > 1 || forced_.blocks) all.insert(units);
    }
    return {all.begin(), all.end()};
  }

  std::vector<int> RowsOfGroups(const Variant& variant) const {
    if (forced_.rows) {
      if (variant.row_blocks > 0 && *forced_.rows != 1) return {};
      return *forced_.rows % variant.rows == 0 ? std::vector<int>{*forced_.rows} : std::vector<int>{};
    }
    if (variant.row_blocks > 0) return {1};
    std::vector<int> all;
    for (const int times : {1, 2, 3, 4, 6, 8, 12, 16}) {
      if (times > 1 && int64_t{times - 1} * variant.rows >= problem_.batch) break;
      all.push_back(times * variant.rows);
    }
    return all;
  }

  // Fills in what follows from a cut; nothing if the device has no room for it.
  std::optional<Choice> Complete(const Variant& variant, Cut cut) const {
    // Where layout.h, which counts in 32 bits, would overflow, there is no room in any device's shared memory.
    if (problem_.units > 65536 || cut.rows * std::max<int64_t>(64, problem_.units) > 1 << 22) return std::nullopt;
    if (cut.exchange == Exchange::kCluster && (device_.code < 90 || cut.blocks > 16)) return std::nullopt;
    SetWarps(variant, cut);
    cut.shared_bytes = SharedBytes(problem_, variant, cut, pass_);
    if (cut.shared_bytes > device_.shared_bytes) return std::nullopt;
    Choice choice{};
    const WarpWork work = WorkOfWarp(problem_, variant, cut, pass_);
    choice.fragments = work.jobs * work.fragments_of_job;
    const int64_t elsewhere = choice.fragments - std::min<int64_t>(variant.registers, work.fragments_of_job);
    const int64_t room = (device_.shared_bytes - cut.shared_bytes) / (int64_t{cut.warps} * kFragmentBytes);
    cut.fragments_shared = static_cast<int>(std::min(elsewhere, room));
    cut.shared_bytes = SharedBytes(problem_, variant, cut, pass_);
    choice.fragments_streamed = elsewhere - cut.fragments_shared;
    choice.cut = cut;
    return choice;
  }

  void Consider(const Variant& variant, const Cut& cut) {
    std::optional<Choice> complete = Complete(variant, cut);
    if (!complete) return;
    Choice& choice = *complete;
    const int64_t sets = problem_.directions * CeilDivide(problem_.batch, cut.rows);
    // The device is asked only about what could be the best if it held everything at once.
    choice.cut.groups = static_cast<int>(std::min<int64_t>(sets, device_.multiprocessors));
    if (best_ && Microseconds(variant, choice) >= best_->microseconds) return;
    const int64_t groups = Groups(sets, Resident(variant, choice.cut));
    if (groups == 0) return;
    choice.cut.groups = static_cast<int>(groups);
    choice.microseconds = static_cast<double>(CeilDivide(sets, groups)) * Microseconds(variant, choice);
    if (!best_ || choice.microseconds < best_->microseconds) best_ = choice;
  }

  // Forward, there is a job for every 8 units, which kernels of the split kind cut up until there is one for each warp
  // that a block can have. Backward, sums are cut up where there are few jobs: every piece goes to the other blocks.
  void SetWarps(const Variant& variant, Cut& cut) const {
    constexpr int64_t kEnoughWarps = 8;
    const int64_t most = variant.most_threads / 32;
    cut.splits = 1;
    int64_t jobs = cut.units / kWarpUnits;
    if (variant.row_blocks > 0) {
      cut.warps = static_cast<int>(jobs);
      return;
    }
    if (pass_ == Pass::kBackward) {
      const ProductSizes sizes = ProductSizesOf(problem_.dtype, variant.tensor_cores);
      const int64_t whole = CeilDivide(problem_.units, sizes.backward_units);
      while (cut.splits < 4 && (dropout_ || whole * cut.splits < kEnoughWarps)) cut.splits *= 2;
      jobs = whole * cut.splits;
    } else if (variant.split) {
      while (jobs * cut.splits * 2 <= most && problem_.units >= 32 * cut.splits) cut.splits *= 2;
      jobs *= cut.splits;
    }
    cut.warps = static_cast<int>(CeilDivide(jobs, CeilDivide(jobs, most)));
  }

  int64_t Resident(const Variant& variant, const Cut& cut) {
    const int cluster = cut.exchange == Exchange::kCluster ? cut.blocks : 0;
    const int grid = cut.exchange == Exchange::kGrid ? cut.blocks : 1;
    const auto [known, fresh] =
        known_.try_emplace({cut.variant, cluster, grid, cut.warps, cut.shared_bytes}, int64_t{0});
    if (fresh) known->second = resident_(variant, cut);
    return known->second;
  }

  double Microseconds(const Variant& variant, const Choice& choice) const {
    return StepMicroseconds(problem_, pass_, variant, choice.cut, choice.fragments_streamed, device_);
  }

  // A group keeps its direction, and with it its share of the recurrent kernel, if their number is even.
  int64_t Groups(int64_t sets, int64_t resident) const {
    const int64_t groups = std::min(sets, resident);
    return groups < sets && groups > 1 ? groups - groups % problem_.directions : groups;
  }

  const Problem& problem_;
  const bool dropout_;
  const Pass pass_;
  const Device& device_;
  const ResidentQuery& resident_;
  const Forced& forced_;
  std::map<std::tuple<int, int, int, int, int64_t>, int64_t> known_;
  std::optional<Choice> best_;
};

// What a choice depends on.
using Key = std::tuple<Pass, DType, Precision, int64_t, int64_t, int, bool, int, int, int, int64_t, int>;

std::mutex mutex;
Forced forced_passes[2];
std::map<Key, Choice>& Known() {
  static auto& known = *new std::map<Key, Choice>;
  return known;
}

std::string Text(const Forced& forced) {
  std::string text;
  if (forced.variant) text += ", variant " + *forced.variant;
  if (forced.exchange) text += std::string(", exchange ") + NameOf(*forced.exchange);
  if (forced.blocks) text += ", blocks " + std::to_string(*forced.blocks);
  if (forced.rows) text += ", rows " + std::to_string(*forced.rows);
  return text.empty() ? text : "; forced: " + text.substr(2);
}

}  // namespace

const char* NameOf(Precision precision) {
  switch (precision) {
    case Precision::kExact:
      return "exact";
    case Precision::kTf32:
      return "tf32";
    case Precision::kTf32x3:
      return "tf32x3";
  }
  return "";
}

const char* NameOf(Pass pass) { return pass == Pass::kForward ? "forward" : "backward"; }

const char* NameOf(Exchange exchange) {
  switch (exchange) {
    case Exchange::kBlock:
      return "block";
    case Exchange::kCluster:
      return "cluster";
    case Exchange::kGrid:
      return "grid";
  }
  return "";
}

Choice Choose(const Problem& problem, bool dropout, Pass pass, const Device& device, const ResidentQuery& resident) {
  // Many batch sizes may pass by: beyond so many, what was found is forgotten.
  constexpr size_t kMostKnown = 4096;
  const Key key = {
      pass,    problem.dtype, problem.precision, problem.batch,          problem.units,       problem.directions,
      dropout, device.major,  device.minor,      device.multiprocessors, device.shared_bytes, device.code};
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = Known().find(key);
  if (found != Known().end()) return found->second;
  const Forced& forced = forced_passes[static_cast<int>(pass)];
  const std::optional<Choice> choice = Selection(problem, dropout, pass, device, resident, forced).Best();
  if (!choice) {
    throw std::invalid_argument("lstm_fast: no CUDA kernel runs the " + std::string(NameOf(pass)) + " pass of " +
                                NameOf(problem.dtype) + " with " + std::to_string(problem.units) + " units" +
                                (dropout ? " and recurrent dropout" : "") + " on a device of compute capability " +
                                std::to_string(device.major) + "." + std::to_string(device.minor) + " with " +
                                std::to_string(device.shared_bytes) + " bytes of shared memory" + Text(forced));
  }
  if (Known().size() >= kMostKnown) Known().clear();
  return Known()[key] = *choice;
}

int64_t MostExchangeBytes(Problem problem, bool dropout, Pass pass, const Device& device,
                          const ResidentQuery& resident) {
  problem.batch = INT32_MAX;
  const std::lock_guard<std::mutex> lock(mutex);
  const Forced& forced = forced_passes[static_cast<int>(pass)];
  return Selection(problem, dropout, pass, device, resident, forced).MostExchangeBytes();
}

std::string Describe(const Choice& choice, Pass pass) {
  const Cut& cut = choice.cut;
  const auto count = [](int64_t n, const char* noun) { return std::to_string(n) + " " + noun + (n == 1 ? "" : "s"); };
  std::string text = std::string(NameOf(pass)) + ": kernel " + Variants()[static_cast<size_t>(cut.variant)].name + ", ";
  text += count(cut.groups, "group") + " of " + count(cut.blocks, "block");
  if (cut.exchange == Exchange::kCluster) text += " (cluster)";
  if (cut.exchange == Exchange::kGrid) text += " (through global memory)";
  text += ", each with " + count(cut.rows, "row") + " and " + count(cut.units, "unit") + " a block, " +
          count(cut.warps, "warp") + ", " + std::to_string(cut.shared_bytes) + " bytes of shared memory; ";
  text += choice.fragments_streamed == 0 ? "the recurrent kernel stays on chip"
                                         : std::to_string(100 * choice.fragments_streamed / choice.fragments) +
                                               " % of the recurrent kernel is read anew in every timestep";
  return text;
}

void Force(Pass pass, const Forced& forced) {
  if (forced.variant) {
    const auto& variants = Variants();
    const auto named = [&](const Variant& variant) { return variant.name == *forced.variant; };
    if (std::none_of(variants.begin(), variants.end(), named)) {
      throw std::invalid_argument("variant: expected one of variants(); found " + *forced.variant);
    }
  }
  if (forced.blocks && *forced.blocks < 1) {
    throw std::invalid_argument("blocks: expected 1 or more; found " + std::to_string(*forced.blocks));
  }
  if (forced.rows && *forced.rows < 1) {
    throw std::invalid_argument("rows: expected 1 or more; found " + std::to_string(*forced.rows));
  }
  const std::lock_guard<std::mutex> lock(mutex);
  forced_passes[static_cast<int>(pass)] = forced;
  Known().clear();
}

}  // namespace lstm_fast::cuda
