"""One HTML page from run folders. Imports no torch."""
