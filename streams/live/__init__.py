"""The live service: the spine run on Kafka and Redis. Never imports `offline`."""
