"""The agent loop: a durable state machine over a journal, and the API in front of it."""
