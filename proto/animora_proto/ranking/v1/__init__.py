"""Messages and stubs of `animora.ranking.v1`, generated from `ranking.proto` by `make proto`."""

from animora_proto.ranking.v1 import ranking_pb2, ranking_pb2_grpc

__all__ = ["ranking_pb2", "ranking_pb2_grpc"]
