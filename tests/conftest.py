"""What holds for every test, and for whatever they start."""

import os

# two workers share the cores: with two threads each, matrices this small take far longer. Before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
