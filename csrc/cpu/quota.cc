#include "cpu/quota.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace lstm_fast {
namespace {

// A hierarchy of control groups: where it is mounted, which of its groups is there, and its version.
struct Mount {
  std::string point;  // such as /sys/fs/cgroup
  std::string group;  // such as /, or the container's own group, of which only what is below can be seen
  bool unified;       // version 2
};

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> words;
  std::istringstream stream(text);
  for (std::string word; std::getline(stream, word, separator);) words.push_back(word);
  return words;
}

bool Has(const std::vector<std::string>& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

// Those that can limit processor time. A line of mountinfo: five fields, of which the fourth is the group and the fifth
// the point, options, "-", type, source, options of the hierarchy.
std::vector<Mount> Mounts(const std::string& root) {
  std::vector<Mount> mounts;
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> fields = Split(line, ' ');
    const auto dash = std::find(fields.begin(), fields.end(), "-");
    if (fields.size() < 6 || fields.end() - dash < 4) continue;
    const bool unified = dash[1] == "cgroup2";
    if (unified || (dash[1] == "cgroup" && Has(Split(dash[3], ','), "cpu"))) {
      mounts.push_back({fields[4], fields[3], unified});
    }
  }
  return mounts;
}

// The group of this process in a hierarchy. Lines of /proc/self/cgroup: number, controllers, group; the number of
// version 2 is 0.
std::string GroupOf(const std::string& root, const Mount& mount) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (mount.unified ? line.compare(0, first, "0") == 0 && controllers.empty() : Has(Split(controllers, ','), "cpu")) {
      return line.substr(second + 1);
    }
  }
  return "/";
}

// The limit of one group, in processors; 0 if it has none.
double LimitOf(const std::string& folder, bool unified) {
  std::string quota;
  double period = 0;
  if (unified) {
    std::ifstream(folder + "/cpu.max") >> quota >> period;
  } else {
    std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
    std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  }
  double microseconds = 0;
  std::istringstream(quota) >> microseconds;  // "max" of version 2 and -1 of version 1: no limit
  return microseconds > 0 && period > 0 ? microseconds / period : 0;
}

}  // namespace

double ProcessorQuota(const std::string& root) {
  double least = 0;
  for (const Mount& mount : Mounts(root)) {
    std::string group = GroupOf(root, mount);
    // In a container the mount may begin at the container's group, while the process still has its path on the host.
    if (mount.group != "/" && group.compare(0, mount.group.size(), mount.group) == 0)
      group.erase(0, mount.group.size());
    // Each group is bound by those above it.
    while (true) {
      const double limit = LimitOf(root + mount.point + (group == "/" ? "" : group), mount.unified);
      if (limit > 0 && (least == 0 || limit < least)) least = limit;
      const size_t slash = group.rfind('/');
      if (slash == std::string::npos) break;
      group.erase(slash);
    }
  }
  return least;
}

}  // namespace lstm_fast
