"""Whatever is installed otherwise is told apart, and nothing is imported for it."""

import os
import subprocess
import sys

import pytest

from quantgate.core.installed import installed


def told():
    return installed.__wrapped__()


def put(folder, name):
    (folder / name).mkdir()


def test_it_is_the_same_twice():
    assert told() == told()


@pytest.mark.parametrize("name", ["mistral_common-1.9.0.dist-info", "jieba-0.42.egg-info"])
def test_another_library_or_version_is_told_apart(name, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    before = told()
    put(tmp_path, name)
    with_it = told()
    (tmp_path / name).rename(tmp_path / name.replace("0", "1", 1))
    assert len({each["distributions"] for each in (before, with_it, told())}) == 3


def test_where_else_one_looks_is_no_other_library(tmp_path, monkeypatch):
    before = told()
    (tmp_path / "some_module.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "none"), "", *sys.path, *sys.path, str(tmp_path)])
    assert told() == before


def test_a_library_from_elsewhere_is_told_apart_though_it_says_the_same_version(tmp_path, monkeypatch):
    before = told()
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "__init__.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    elsewhere = told()
    os.utime(tmp_path / "transformers" / "__init__.py", (1, 1))
    assert len({each["libraries"] for each in (before, elsewhere, told())}) == 3


def test_nothing_is_imported():
    code = (
        "import sys; from quantgate.core.installed import installed; installed(); "
        "assert not {'torch', 'transformers', 'tokenizers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
