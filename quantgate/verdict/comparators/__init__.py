"""How two runs are compared, one comparator for each kind of metric; a table of them, entry point group included."""
