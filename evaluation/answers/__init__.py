"""From what a chat model answers to the code that is tested. Read `code` first.

`code` finds the definition of the wanted function in an answer; `wrapping` takes off what surrounds code (reasoning,
fences, odd white space); `definitions` tells which other statements the function needs.
"""
