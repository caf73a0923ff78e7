"""One row behind each seam of quantgate."""
