"""Local Aggregation in TensorFlow 2 and Keras: the library, without flags or tools."""
