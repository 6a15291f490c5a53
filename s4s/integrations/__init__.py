"""Where people sample: one file a host, each the only one that imports it."""
