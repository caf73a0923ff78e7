"""Why a quantized model differs from its original: which of its parts do it, how much each, and what kind of harm it
is.

Modules of the subject are exchanged with the reference's, one unit at a time, and the divergence of the next-token
distributions is measured on a few segments of text: docs/diagnosis.md.
"""
