"""The two clients, publisher and subscriber, on confluent-kafka, and what is built from them."""
