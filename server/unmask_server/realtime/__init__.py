"""`WS /v1/realtime`: spoken dialogue by the OpenAI Realtime protocol."""
