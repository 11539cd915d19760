"""What a fit reads: the four views as arrays, and what is held out of them."""
