"""For developers: real Kafka and Redis as child processes, seeded streams, the demo."""
