"""Where the parts of the package lie that are no modules.

The folders ``evals``, ``fixtures``, ``reports`` and ``baselines`` stand at the top level of a clone; links in
``quantgate`` lead to them, and a wheel holds them where the links are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).resolve().parents[1]
"""The folder of the package ``quantgate``."""


def _part(name: str) -> Path:
    inside = PACKAGE / name
    # a checkout made without symbolic links holds a small file instead of a link
    return (inside if inside.is_dir() else PACKAGE.parent / name).resolve()


EVALS: Final = _part("evals")
"""The cases, and beside them the shipped policy and the bundled items."""
DATA: Final = EVALS / "data"
POLICY: Final = EVALS / "policy.toml"
BASELINES: Final = _part("baselines")
CLONE: Final = None if EVALS.is_relative_to(PACKAGE) else EVALS.parent
"""The top level of the clone that the package is used from, or None where it is installed."""
ROOMS: Final = (PACKAGE, *(CLONE / name for name in ("fixtures", "reports", "evals") if CLONE))
"""Where modules of quantgate lie."""
EVALS_MODULE: Final = "quantgate.evals"


def suite_arguments() -> list[str]:
    """What ``quantgate run`` puts before the arguments of pytest that are typed.

    The plugin by name, for those who switch entry points off (PYTEST_DISABLE_PLUGIN_AUTOLOAD); pytest would warn on
    every run that it cannot rewrite the asserts of a package that this command has imported.
    """
    cases = ["--pyargs", EVALS_MODULE] if CLONE is None else [str(EVALS)]
    return ["-p", "quantgate.fixtures.entry", "-W", "ignore::pytest.PytestAssertRewriteWarning", *cases]


def asked_path(argument: str, here: Path) -> Path:
    """What an argument of pytest names, as an absolute path; ``quantgate.evals`` and modules in it are paths too."""
    name = argument.partition("::")[0]
    if name == EVALS_MODULE or name.startswith(f"{EVALS_MODULE}."):
        return EVALS.joinpath(*name.split(".")[2:])
    return (here / name).resolve()
