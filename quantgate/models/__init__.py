"""Where models come from, what they are, and how they are loaded."""
