"""Images in, (index, view) batches out: sources, checks, augmentation, pipeline."""
