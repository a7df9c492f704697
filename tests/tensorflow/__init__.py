"""The tests that need TensorFlow."""
