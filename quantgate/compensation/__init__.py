"""Making up for what quantizing lost: adapters beside, or inside, a quantized model.

A way is a row of `quantgate.compensation.ways.WAYS`; what it makes is a candidate like any other.
"""
