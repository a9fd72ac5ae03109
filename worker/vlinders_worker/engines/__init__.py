"""Engines: the programs that run models, of three kinds, behind one shape."""
