"""Messages and stubs of `animora.ranking.v1`, generated from its `.proto` files by `make proto`."""

from animora_proto.ranking.v1 import models_pb2, models_pb2_grpc, ranking_pb2, ranking_pb2_grpc

__all__ = ["models_pb2", "models_pb2_grpc", "ranking_pb2", "ranking_pb2_grpc"]
