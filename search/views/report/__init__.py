"""The report: one HTML file with all of a search that users look at."""
