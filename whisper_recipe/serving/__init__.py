"""Serve models over HTTP and WebSocket with OpenAI's interface, and a web page to try them."""
