"""The tensor engine. Importing it loads torch."""

import os

# Threads of GNU OpenMP spin between two parallel loops, by default for milliseconds. On a machine
# with other work they then hold the cores that the thread they wait for needs. This many turns
# bridge the gaps within a step and no more. libgomp reads the variable when torch loads it. A value
# that the user has set is kept.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
