"""A watcher in a process of its own, a tree that changes under it at random, and readers beside it: see tools/watch."""
