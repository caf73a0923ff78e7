"""pytest plugin 2: collects the records of all workers and renders them."""
