"""People's preference: blind choices between pictures of several methods, and what they add up to."""
