"""Several processes: one run shared by all of them, or many jobs beside each other."""
