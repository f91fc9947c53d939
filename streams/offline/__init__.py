"""The offline half: recordings, replay and everything that is computed from a replay."""
