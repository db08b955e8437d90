"""Methods that mergekit 0.1.5 does not have."""
