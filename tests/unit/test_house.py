"""The measures the code holds itself to: file and function sizes, docstrings, no swallowed errors, safe loading."""

import ast
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = sorted(path for room in ("quantgate", "fixtures", "reports") for path in (ROOT / room).rglob("*.py"))
ALL = [*LIBRARY, *sorted(path for room in ("tests", "evals", "benchmarks") for path in (ROOT / room).rglob("*.py"))]


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path):
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def code_length(function):
    """Lines of a function's body, its docstring left out."""
    body = function.body[1:] if ast.get_docstring(function) and len(function.body) > 1 else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_readable(path):
    tree = tree_of(path)
    assert len(path.read_text(encoding="utf-8").split("\n")) <= 601
    assert path.is_relative_to(ROOT / "tests") or ast.get_docstring(tree), "every module says what it is for"
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except in line {node.lineno}"
        if isinstance(node, ast.FunctionDef):
            assert code_length(node) <= 60, f"{node.name} in line {node.lineno} is too long"


def test_functions_are_short():
    lengths = sorted(code_length(function) for path in LIBRARY for function in functions(path))
    assert statistics.median(lengths) <= 10
    assert lengths[int(0.9 * len(lengths))] <= 30


IN_ITS_CELL = "        exec(compile(code"  # the sandbox's child, which the kernel confines before it comes to this line


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled_and_no_remote_code_runs(path):
    text = path.read_text(encoding="utf-8")
    if path.relative_to(ROOT) == Path("quantgate/tasks/sandbox.py"):
        assert text.count("exec(compile(code") == 1
        text = text.replace(IN_ITS_CELL, "")
    for forbidden in ("import pickle", "torch.load(", "trust_remote_code=True", "shell=True", "eval(", "exec("):
        calls = [line for line in text.split("\n") if forbidden in line and f".{forbidden}" not in line]
        assert not calls, f"{forbidden} in {path.name}"


UNBOUNDED = {("json", "loads"), ("json", "load"), ("tomllib", "loads"), ("tomllib", "load")}


@pytest.mark.parametrize(
    "path", [path for path in LIBRARY if path.name != "reading.py"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_what_others_wrote_is_read_within_bounds(path):
    """Files, replies and what users give come through `quantgate.reading`: bounded, UTF-8, never a traceback."""
    for node in ast.walk(tree_of(path)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
        bare = (owner, node.func.attr) in UNBOUNDED
        whole = node.func.attr in ("read_text", "read_bytes") and owner != "reading"
        endless = node.func.attr == "read" and not node.args and ast.unparse(node.func.value) in ("file", "sys.stdin")
        found = f"{ast.unparse(node)} in line {node.lineno}" if bare or whole or endless else ""
        assert not found, "read it by quantgate.reading"


def test_the_library_does_not_import_pytest():
    for path in (ROOT / "quantgate").rglob("*.py"):
        if "pytest" not in path.read_text(encoding="utf-8"):
            continue
        nodes = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        assert "pytest" not in names | modules, path.name


def test_names_of_tests_hold_no_number_of_a_list_elsewhere():
    texts = [path.read_text(encoding="utf-8") for path in ALL if path.name.startswith("test_")]
    names = [name for text in texts for name in re.findall(r"(?m)^ *(?:async )?def (\w+)", text)]
    assert len(names) > 2000
    assert not [name for name in names if re.search(r"_(?:bug|case|defect|fault|finding|issue|item|point)_?\d", name)]


def test_every_source_file_of_the_library_is_tested():
    """One test module per room, at the least: the tree of tests mirrors the tree of the library."""
    rooms = {path.parent.name for path in LIBRARY if len(path.relative_to(ROOT).parts) == 3}
    tested = {
        path.name for path in (ROOT / "tests" / "unit").iterdir() if path.is_dir() and any(path.glob("test_*.py"))
    }
    assert rooms <= tested


# --- the measures of classes, parameters and types --------------------------------------------------------------------

LONGEST_CLASS, MOST_METHODS, MOST_PARAMETERS = 200, 12, 7
BETWEEN = ("quantgate/runs/", "quantgate/subjects/", "quantgate/engines/", "fixtures/plan.py", "fixtures/executors/")
"""From the plan to the engine: what passes there has a type. Values of JSON are `object` until they were looked at."""


def classes(path):
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.ClassDef)]


def public_methods(node):
    """Properties too: each is something to know of a class."""
    found = [each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {name for name in found if not name.startswith("_")}


def parameters(function):
    """Those with names; ``self`` and what is only handed on (``*args``, ``**kwargs``) do not count."""
    every = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return [each.arg for each in every if each.arg not in ("self", "cls")]


def measures():
    """What is measured -> (value, where), the greatest of the library."""
    spans = [(node.end_lineno - node.lineno + 1, node.name) for path in LIBRARY for node in classes(path)]
    methods = [(len(public_methods(node)), node.name) for path in LIBRARY for node in classes(path)]
    lists = [(len(parameters(each)), each.name) for path in LIBRARY for each in functions(path)]
    files = [(len(path.read_text(encoding="utf-8").split("\n")) - 1, path.name) for path in ALL]
    lengths = sorted(code_length(each) for path in LIBRARY for each in functions(path))
    return {
        "longest file": max(files),
        "longest class": max(spans),
        "most public methods": max(methods),
        "most parameters": max(lists),
        "longest function": (
            lengths[-1],
            f"median {lengths[len(lengths) // 2]}, p90 {lengths[len(lengths) * 9 // 10]}",
        ),
        "bare Any returned between plan and engine": (len(untyped()), ", ".join(untyped())),
    }


def untyped():
    """Functions between plan and engine that return a bare ``Any``."""
    between = [path for path in LIBRARY if str(path.relative_to(ROOT)).startswith(BETWEEN)]
    return [
        f"{path.name}:{each.name}"
        for path in between
        for each in functions(path)
        if each.returns is not None and ast.unparse(each.returns) == "Any"
    ]


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_classes_are_small_and_parameters_few(path):
    for node in classes(path):
        assert node.end_lineno - node.lineno + 1 <= LONGEST_CLASS, node.name
        assert len(public_methods(node)) <= MOST_METHODS, node.name
    for function in functions(path):
        assert len(parameters(function)) <= MOST_PARAMETERS, function.name


def test_nothing_between_plan_and_engine_is_a_bare_any():
    assert len([path for path in LIBRARY if str(path.relative_to(ROOT)).startswith(BETWEEN)]) > 50
    assert untyped() == []


def test_the_measures_see_what_they_measure():
    """Each of them on a class that breaks it."""
    lines = "\n".join(f"    def m{n}(self) -> None: ..." for n in range(MOST_METHODS + 1))
    tree = ast.parse(f"class C:\n{lines}\n    def f(self, a, b, c, d, e, f, g, h, *rest, **more) -> Any: ...\n")
    [found] = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert len(public_methods(found)) == MOST_METHODS + 2
    assert len(parameters(found.body[-1])) == 8
    assert ast.unparse(found.body[-1].returns) == "Any"


if __name__ == "__main__":  # python tests/unit/test_house.py: the figures of today
    for what, (value, where) in measures().items():
        print(f"{what}: {value} ({where})")
