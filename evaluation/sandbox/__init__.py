"""Executes generated code: in separate processes, under limits, judged from outside. It stands on its own.

See ``pool`` and ``confinement`` for guarantees and limits.
"""
