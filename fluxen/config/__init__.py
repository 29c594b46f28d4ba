"""Configuration: YAML with positions → `Config`, pure data. Nothing here opens a socket or knows a provider."""
