// The processors that the package's threads run on.
#ifndef LSTM_FAST_CPU_PROCESSORS_H_
#define LSTM_FAST_CPU_PROCESSORS_H_

namespace lstm_fast {

// How many there are: at least 1.
int ProcessorCount();

// Lets the calling thread run on all of them, whatever the thread that started it is bound to. Advice only.
void RunOnProcessors();

}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_PROCESSORS_H_
