"""Several processes: one run that all of them share, or many jobs beside each other."""
