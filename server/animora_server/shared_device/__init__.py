"""One device for several workers: its process, its protocol, and both ends of the socket between them."""
