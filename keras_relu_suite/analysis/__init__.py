"""Look at a model or a file without running it (`inspection`)."""
