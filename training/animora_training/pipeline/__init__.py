"""From interactions to a version that is known to be good."""
