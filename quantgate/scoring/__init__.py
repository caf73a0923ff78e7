"""Requests, engines that answer them, logit fidelity."""
