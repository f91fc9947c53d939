"""fraudstream: transactions in, alerts with reasons out."""
