"""Memory, speed, roofline."""
