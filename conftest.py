"""Registers the two plugins; everything else lives in fixtures/ and reports/."""

pytest_plugins = ["quantgate.fixtures.plugin", "quantgate.reports.plugin"]
