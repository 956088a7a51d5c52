"""The race with nanoGPT, karpathy/nanochat and eemicrogpt."""
