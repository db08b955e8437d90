"""Extracts the code to test from a chat model's answer. Read `code` first.

`code` finds the definition of the wanted function in an answer; `wrapping` strips what surrounds code (reasoning,
fences, odd white space); `definitions` finds the other statements that the function needs.
"""
