// The share of processor time that a container or a service may use.
#ifndef LSTM_FAST_CPU_QUOTA_H_
#define LSTM_FAST_CPU_QUOTA_H_

#include <string>

namespace lstm_fast {

// How many processors the control groups of this process allow it, on average over time: `docker run --cpus`, a CPU
// limit of Kubernetes, CPUQuota of systemd. 0 if there is no limit. `root` stands before /proc and /sys, for tests.
double ProcessorQuota(const std::string& root = "");

}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_QUOTA_H_
