import pytest

from quantgate.quantize.catalogue import docs
from quantgate.quantize.catalogue.methods import METHODS


def test_the_page_is_up_to_date():
    assert docs.PAGE.read_text(encoding="utf-8") == docs.page(), "run python -m quantgate.quantize.catalogue.docs"


def test_every_algorithm_is_described_and_every_row_is_there():
    assert docs.undescribed() == set()
    page = docs.page()
    assert all(f"| `{name}` |" in page for name in METHODS)


def test_check_fails_when_the_page_is_old(tmp_path, monkeypatch):
    monkeypatch.setattr(docs, "PAGE", tmp_path / "methods.md")
    monkeypatch.setattr("sys.argv", ["docs", "--check"])
    with pytest.raises(SystemExit, match="not up to date"):
        docs.main()
    monkeypatch.setattr("sys.argv", ["docs"])
    docs.main()
    monkeypatch.setattr("sys.argv", ["docs", "--check"])
    docs.main()
