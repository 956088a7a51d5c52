"""Count-based n-gram models: counting, smoothing, and the baseline of a run. No torch, no numba."""
