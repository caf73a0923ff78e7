"""The cases, a file per dimension; ``data`` beside them holds the bundled items, ``policy.toml`` the margins."""
