"""What happens around the training steps, one job a file, as Keras callbacks."""
