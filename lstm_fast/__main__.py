"""`python -m lstm_fast` is `lstm-fast`."""

import sys

from lstm_fast.cli import main

sys.exit(main())
