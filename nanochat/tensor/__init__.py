"""The tensor engine. Importing it loads torch."""

import os

# GNU OpenMP's threads spin between two parallel loops, by default for milliseconds. On a machine
# that does other work too they then keep the cores from the very thread that they wait for. This
# many turns bridge the gaps inside a step and no more. libgomp reads the variable when torch loads
# it; a setting of the user's stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
