"""The numbers of runs and of the paper: stored, read again, and laid out."""
