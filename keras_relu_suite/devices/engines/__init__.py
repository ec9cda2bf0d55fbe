"""Engines that `runner.py` loads by their path: one runtime each, nothing of this package, so that a runner and one of
these files are all that another machine needs.

Each has a class `Engine(arguments)` with `engine`, `version`, `platform` and `kind`, and the methods of
`runner.LiteRT`.
"""
