"""Speaking to each kind of deployment."""
