// The processors that the package's threads run on.
#ifndef LSTM_FAST_CPU_PROCESSORS_H_
#define LSTM_FAST_CPU_PROCESSORS_H_

#include <thread>

namespace lstm_fast {

// How many there are: at least 1.
int ProcessorCount();

// The one that the calling thread is on; -1 where the system does not say.
int CurrentProcessor();

// Lets a thread run on all of them but one, or with -1 on all, whatever the thread that started it is bound to. Advice
// only. By one thread at a time.
void RunOnProcessorsBut(int processor, std::thread::native_handle_type thread);

// Whether it may run on exactly these. By one thread at a time, too.
bool RunsOnProcessorsBut(int processor, std::thread::native_handle_type thread);

}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_PROCESSORS_H_
