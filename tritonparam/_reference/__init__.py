"""The definition of stream v1 in NumPy: docs/stream.md, line by line, written to be read.

Every value that any backend makes is checked bitwise against what stands here.
"""
