"""Everything that people see: the terminal, the loss curve, ablation reports and plots."""
