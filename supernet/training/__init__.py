"""Training and fine-tuning supernets, and measuring the accuracy of their subnets. May import `weights`."""
