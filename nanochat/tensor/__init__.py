"""The tensor engine. Importing it loads torch."""

import os

# GNU OpenMP's threads spin between two parallel loops. On a machine that does other work too they
# then keep the cores from the very thread that they wait for: with one busy neighbour on two cores
# a step of the default model takes five to ten times as long. A short spin costs nothing when
# the machine is quiet. libgomp reads this when torch loads it; a setting of the user's stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
