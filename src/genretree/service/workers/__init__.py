"""Worker processes, their protocol, and the pool that starts and replaces them."""
