"""The gRPC services: the only place that knows the wire contract."""
