"""The tests. A package, so that the folder tests/tensorflow never stands in for TensorFlow itself."""
