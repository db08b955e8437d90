"""The report: one HTML file that holds all of a search that people look at."""
