"""The places where a model can run, behind one seam."""
