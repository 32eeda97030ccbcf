"""Training and fine-tuning supernets, and keeping the accuracies of their subnets. May import `weights`."""
