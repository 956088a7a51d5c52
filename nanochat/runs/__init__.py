"""Everything that lies on disk: run folders, checkpoints, and how a trained model is loaded."""
