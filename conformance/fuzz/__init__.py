"""A fuzzer of the whole address: what clients might send, well-meant or not, many at a time, and leave before the end."""
