"""One device for several workers: the device process, its protocol, and both ends of the socket."""
