"""Files that clients leave here, and batches of requests that are answered when nothing else is to be done."""
