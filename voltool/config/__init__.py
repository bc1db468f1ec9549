"""The configuration: TOML, validated; and where state lies."""
