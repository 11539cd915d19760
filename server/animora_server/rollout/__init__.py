"""New versions beside the one that serves: automatic roll-back, and shadow scoring."""
