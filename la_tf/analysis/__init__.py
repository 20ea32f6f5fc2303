"""What a run looks like: the paper's Figures 2 to 4, its learning curves, and the report of all."""
