"""What the papers claim, each in a file of its own: question, protocol, statistics, pass rule, controls.

A claim's file has ``CLAIM``, plain data, and ``measure``, which makes its table for one network; nothing is decided
there. `flatlens.claims.statistics` makes numbers of the tables, `flatlens.claims.verdict` a verdict of the numbers. A
new claim is one file here and one row in `flatlens.claims.catalogue`.
"""
