"""What changes a model before it is rounded, or quantizes its activations."""
