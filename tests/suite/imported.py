"""What runs of the suite import, imported once: a run in this process forgets what it was the first to import.

Every run would import it again, a second each. What rows replace in a module is then what the run finds, too.
"""

import importlib
import pkgutil
import zoneinfo  # noqa: F401

import hypothesis.core  # noqa: F401
import lxml.etree  # noqa: F401
import sacrebleu  # noqa: F401

import quantgate

OF_PYTEST = ("quantgate.evals", "quantgate.fixtures.plugin", "quantgate.reports.plugin")  # it rewrites their asserts

for found in pkgutil.walk_packages(quantgate.__path__, "quantgate."):
    if not found.name.startswith(OF_PYTEST) and not found.name.endswith("__main__"):
        importlib.import_module(found.name)
