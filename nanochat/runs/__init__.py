"""Files of runs: run folders, their locks, checkpoints, and loading a trained model."""
