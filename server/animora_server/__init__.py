"""The ranking server: an async gRPC service around a resident NeuCF model."""
