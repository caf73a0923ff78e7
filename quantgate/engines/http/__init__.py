"""Servers that answer over HTTP: what they speak, what they can give, and whether it can be believed."""
