"""The table of methods, recipes, and methods of other packages."""
