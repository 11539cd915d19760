"""The name of the arm that every server has. Light: the settings import it, and they import no NumPy."""

CONTROL = "control"  # the arm of all users who are in no other
