"""Every figure that well-known texts about serving state, measured on this machine or marked as not measurable here."""
