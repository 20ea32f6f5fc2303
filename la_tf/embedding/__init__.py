"""Embeddings of whole sets of images, by the network of a run or an export."""
