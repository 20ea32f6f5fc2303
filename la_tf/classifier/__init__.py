"""A classifier of one's own on a trained network."""
