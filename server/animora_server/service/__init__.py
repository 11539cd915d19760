"""The transport: gRPC requests to queries, results to gRPC responses. No package below imports gRPC."""

from animora_server.service.ranking_service import RankingService
from animora_server.service.server import METHODS, SERVICE_NAME, GrpcServer
from animora_server.service.timeline_service import TimelineService

__all__ = ["METHODS", "SERVICE_NAME", "GrpcServer", "RankingService", "TimelineService"]
