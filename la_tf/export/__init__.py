"""A trained network for others: SavedModel, plain weights, ONNX, model card."""
