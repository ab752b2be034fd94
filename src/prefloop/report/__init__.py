"""One page from run folders. Nothing here imports torch."""
