"""One file an algorithm: from a weight and what it saw to what is stored."""
