"""One file per benchmark, data sources, prompts."""
