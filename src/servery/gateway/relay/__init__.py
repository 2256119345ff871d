"""The answer on its way to the client: silence broken, stalls noticed, cuts mended where that can be done."""
