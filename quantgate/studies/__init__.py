"""Questions over the outcomes of many cases."""
