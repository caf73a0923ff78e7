"""Registers the two plugins; everything else lives in fixtures/ and reports/."""

pytest_plugins = ["fixtures.plugin", "reports.plugin"]
