"""The text a method may look at."""
