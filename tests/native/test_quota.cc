// The processor time that control groups allow, from files as Docker, Kubernetes and systemd leave them.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "cpu/quota.h"

namespace lstm_fast::testing {
namespace {

// A root of the file system with some files in it.
class Root {
 public:
  explicit Root(const std::vector<std::pair<std::string, std::string>>& files) {
    std::string name = (std::filesystem::temp_directory_path() / "lstm_fast-XXXXXX").string();
    Expect(mkdtemp(name.data()) != nullptr, "mkdtemp failed");
    path_ = name;
    for (const auto& [file, content] : files) {
      const std::filesystem::path path = path_ + file;
      std::filesystem::create_directories(path.parent_path());
      std::ofstream(path) << content;
    }
  }
  ~Root() { std::filesystem::remove_all(path_); }
  Root(const Root&) = delete;
  Root& operator=(const Root&) = delete;

  double Quota() const { return ProcessorQuota(path_); }

 private:
  std::string path_;
};

void ExpectQuota(double expected, const std::vector<std::pair<std::string, std::string>>& files) {
  const double found = Root(files).Quota();
  Expect(found == expected, "expected " + std::to_string(expected) + " processors, found " + std::to_string(found));
}

constexpr const char* kMounts = "/proc/self/mountinfo";
constexpr const char* kGroups = "/proc/self/cgroup";
constexpr const char* kOne =
    "21 1 8:1 / / rw - ext4 /dev/root rw\n29 21 0:25 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup ";
constexpr const char* kTwo =
    "21 1 8:1 / / rw - ext4 /dev/root rw\n29 21 0:25 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 ";

LSTM_FAST_TEST(no_quota_where_there_are_no_groups) {
  ExpectQuota(0, {});
  ExpectQuota(0, {{kMounts, "21 1 8:1 / / rw - ext4 /dev/root rw\n\n-\n"}, {kGroups, "0::/\nnonsense\n"}});
}

LSTM_FAST_TEST(quota_of_version_2) {
  const std::string mounts = std::string(kTwo) + "cgroup2 rw\n";
  // As in a container with a name space of its own.
  ExpectQuota(2.5, {{kMounts, mounts}, {kGroups, "0::/\n"}, {"/sys/fs/cgroup/cpu.max", "250000 100000\n"}});
  ExpectQuota(0, {{kMounts, mounts}, {kGroups, "0::/\n"}, {"/sys/fs/cgroup/cpu.max", "max 100000\n"}});
  // A service of systemd; the slice above it has less.
  ExpectQuota(1.5, {{kMounts, mounts},
                    {kGroups, "0::/my.slice/my.service\n"},
                    {"/sys/fs/cgroup/my.slice/my.service/cpu.max", "400000 100000\n"},
                    {"/sys/fs/cgroup/my.slice/cpu.max", "150000 100000\n"}});
}

LSTM_FAST_TEST(quota_of_version_1) {
  const std::string mounts = std::string(kOne) + "cgroup rw,cpu,cpuacct\n";
  // A container: the mount begins at its own group, the process has its path on the host.
  std::string inside = mounts;
  inside.replace(inside.find("0:25 / "), 7, "0:25 /docker/7f3a ");
  ExpectQuota(2, {{kMounts, inside},
                  {kGroups, "5:memory:/docker/7f3a\n4:cpu,cpuacct:/docker/7f3a\n0::/docker/7f3a\n"},
                  {"/sys/fs/cgroup/cpu.cfs_quota_us", "200000\n"},
                  {"/sys/fs/cgroup/cpu.cfs_period_us", "100000\n"}});
  ExpectQuota(0, {{kMounts, mounts},
                  {kGroups, "4:cpu,cpuacct:/\n"},
                  {"/sys/fs/cgroup/cpu.cfs_quota_us", "-1\n"},
                  {"/sys/fs/cgroup/cpu.cfs_period_us", "100000\n"}});
  ExpectQuota(0.5, {{kMounts, mounts},
                    {kGroups, "4:cpu,cpuacct:/kubepods/pod1/c1\n"},
                    {"/sys/fs/cgroup/kubepods/pod1/c1/cpu.cfs_quota_us", "-1\n"},
                    {"/sys/fs/cgroup/kubepods/pod1/c1/cpu.cfs_period_us", "100000\n"},
                    {"/sys/fs/cgroup/kubepods/pod1/cpu.cfs_quota_us", "50000\n"},
                    {"/sys/fs/cgroup/kubepods/pod1/cpu.cfs_period_us", "100000\n"}});
  // A hierarchy of other controllers says nothing of processor time.
  ExpectQuota(0, {{kMounts, std::string(kOne) + "cgroup rw,memory\n"},
                  {kGroups, "5:memory:/\n"},
                  {"/sys/fs/cgroup/cpu.cfs_quota_us", "50000\n"},
                  {"/sys/fs/cgroup/cpu.cfs_period_us", "100000\n"}});
}

}  // namespace
}  // namespace lstm_fast::testing
