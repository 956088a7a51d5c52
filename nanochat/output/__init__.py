"""Output for people: the terminal, the loss curve, ablation reports and plots."""
